// What the AI SDK makes of a service, of which it uses /v1/responses unless it is told otherwise:
// `node with_ai_sdk.mjs NODE_MODULES KEY MODEL BASE_URL...` prints a JSON object for each.

import { join } from "node:path";

const [, , modules, apiKey, name, ...services] = process.argv;
const { generateObject, generateText, Output, stepCountIs, streamObject, streamText, tool } = await import(join(modules, "ai/dist/index.mjs"));
const { createOpenAI } = await import(join(modules, "@ai-sdk/openai/dist/index.mjs"));
const { z } = await import(join(modules, "zod/index.js"));

globalThis.AI_SDK_LOG_WARNINGS = false;

const asked = (directive) => "@@" + JSON.stringify(directive);
const usage = { input_tokens: 9, cached_tokens: 4, output_tokens: 5, reasoning_tokens: 2 };
const tool_calls = ["Rome", "Oslo"].map((city) => ({ name: "weather", arguments: { city }, call_id: `call_${city}` }));
const schema = z.object({ city: z.string(), days: z.number() });
const tools = {
  weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `rain in ${city}`,
  }),
};

const failure = async (asking) => {
  try {
    await asking;
  } catch (error) {
    return [error.name, error.statusCode ?? null, error.data?.error?.code ?? null];
  }
};

async function used(baseURL) {
  const paths = new Set();
  const fetching = (url, options) => (paths.add(new URL(url).pathname), fetch(url, options));
  const model = createOpenAI({ baseURL, apiKey, fetch: fetching })(name);
  const common = { model, maxRetries: 0, onError: () => {} };
  const said = asked({ text: "Hello there.", usage });
  const called = asked({ reasoning: "hm", tool_calls, usage });
  const found = {};

  const whole = await generateText({ ...common, prompt: said });
  found["whole"] = [whole.text, whole.finishReason, whole.usage.inputTokens, whole.usage.outputTokens, whole.usage.totalTokens];
  found["has an id"] = whole.providerMetadata.openai.responseId.startsWith("resp_");

  const stream = streamText({ ...common, prompt: said });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  found["streamed"] = [text, await stream.finishReason, (await stream.usage).outputTokens];

  const next = { openai: { previousResponseId: whole.providerMetadata.openai.responseId } };
  found["continued"] = (await generateText({ ...common, prompt: asked({ text: "And on." }), providerOptions: next })).text;

  const thinking = { openai: { reasoningSummary: "auto" } };
  const thought = await generateText({ ...common, prompt: asked({ reasoning: "hm, well", text: "42" }), providerOptions: thinking });
  found["reasoning"] = [thought.reasoningText, thought.text];

  const loop = { ...common, prompt: called, tools, stopWhen: stepCountIs(3) };
  const ran = await generateText(loop);
  found["a tool loop"] = [ran.text, ran.steps.length, ran.steps[0].toolCalls.map((call) => [call.toolCallId, call.toolName, call.input])];
  const running = streamText(loop);
  text = "";
  for await (const piece of running.textStream) text += piece;
  found["a streamed tool loop"] = [text, (await running.steps).length];
  const apart = { openai: { store: false, include: ["reasoning.encrypted_content"] } };
  found["a tool loop without a store"] = (await generateText({ ...loop, providerOptions: apart })).text;

  const object = asked({ text: '{"city": "Rome", "days": 2}' });
  found["an object"] = (await generateObject({ ...common, schema, prompt: object })).object;
  found["an output"] = (await generateText({ ...common, output: Output.object({ schema }), prompt: object })).output;
  const growing = streamObject({ ...common, schema, prompt: object });
  for await (const _ of growing.partialObjectStream);
  found["a streamed object"] = await growing.object;

  found["a wrong request"] = await failure(generateText({ ...common, model: createOpenAI({ baseURL, apiKey })("none-such"), prompt: said }));
  found["a limit"] = await failure(generateText({ ...common, prompt: asked({ status: 429 }) }));
  found["a failure"] = await failure(generateText({ ...common, prompt: asked({ status: 500 }) }));
  const broken = streamText({ ...common, prompt: asked({ text: "one two", failed: "server_error" }) });
  const kinds = [];
  for await (const part of broken.fullStream) kinds.push(part.type);
  found["a failure in a stream"] = [kinds.includes("text-delta"), kinds.includes("error"), await broken.finishReason];
  found["a timeout"] = await failure(generateText({ ...common, prompt: asked({ hang: "first" }), abortSignal: AbortSignal.timeout(200) }));

  const leaving = new AbortController();
  const left = streamText({ ...common, prompt: asked({ chunks: ["tick "], repeat: 10000, interval_s: 0.01 }), abortSignal: leaving.signal });
  for await (const part of left.fullStream) if (part.type === "text-delta") leaving.abort();
  found["left early"] = leaving.signal.aborted;
  found["paths"] = [...paths];
  return found;
}

for (const service of services) console.log(JSON.stringify(await used(service)));
