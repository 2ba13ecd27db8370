// What OpenAI's own client for Node makes of a service:
// `node with_node.mjs PATH_OF_THE_CLIENT KEY MODEL BASE_URL...` prints a JSON object for each.

const [, , path, apiKey, model, ...services] = process.argv;
const { default: OpenAI } = await import(path);

const asked = (directive) => [{ role: "user", content: "@@" + JSON.stringify(directive) }];
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } }];
const tool_calls = ["Rome", "Oslo"].map((city) => ({ name: "weather", arguments: { city }, call_id: `call_${city}` }));
const usage = { input_tokens: 9, cached_tokens: 4, output_tokens: 5, reasoning_tokens: 2 };

const shown = (answer) => ({
  content: answer.choices[0].message.content,
  calls: (answer.choices[0].message.tool_calls ?? []).map((call) => [call.id, call.function.name, call.function.arguments]),
  finish: answer.choices[0].finish_reason,
  tokens: answer.usage && [answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens],
});

const failure = async (asking) => {
  try {
    await asking;
  } catch (error) {
    return [error.constructor.name, error.status ?? null, error.code ?? null];
  }
};

async function used(baseURL) {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  const chat = client.chat.completions;
  const said = asked({ text: "Hello there.", usage });
  const called = asked({ tool_calls, usage });
  const found = {};

  const { data, response } = await chat.create({ model, messages: said }).withResponse();
  found["whole"] = shown(data);
  found["has a request id"] = data._request_id === response.headers.get("x-request-id") && data._request_id.startsWith("req_");

  let text = "";
  const stream = await chat.create({ model, messages: said, stream: true });
  for await (const chunk of stream) text += chunk.choices[0].delta.content ?? "";
  found["streamed"] = text;

  const helper = chat.stream({ model, messages: said, stream_options: { include_usage: true } });
  found["the helper"] = shown(await helper.finalChatCompletion());

  const first = await chat.create({ model, messages: called, tools });
  found["calls"] = shown(first);
  found["streamed calls"] = shown(
    await chat.stream({ model, messages: called, tools, stream_options: { include_usage: true } }).finalChatCompletion(),
  );
  const { message } = first.choices[0];
  const told = message.tool_calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: `sun in ${id}` }));
  found["answered calls"] = shown(await chat.create({ model, messages: [...called, message, ...told], tools })).content;

  const runner = chat.runTools({
    model,
    messages: called,
    tools: [
      {
        type: "function",
        function: { name: "weather", parse: JSON.parse, function: ({ city }) => `rain in ${city}`, parameters: { type: "object", properties: {} } },
      },
    ],
  });
  found["the tool runner"] = await runner.finalContent();

  const response_format = { type: "json_schema", json_schema: { name: "weather", schema: { type: "object" } } };
  const parsed = await chat.parse({ model, messages: asked({ text: '{"city": "Rome"}' }), response_format });
  found["parsed"] = JSON.parse(parsed.choices[0].message.content);

  found["a response"] = (await client.responses.create({ model, input: said[0].content })).output_text;
  found["a streamed response"] = (await client.responses.stream({ model, input: said[0].content }).finalResponse()).output_text;

  found["a wrong request"] = await failure(chat.create({ model, messages: [] }));
  found["a limit"] = await failure(chat.create({ model, messages: asked({ status: 429 }) }));
  found["a failure"] = await failure(chat.create({ model, messages: asked({ status: 500 }), stream: true }));
  found["a timeout"] = await failure(chat.create({ model, messages: asked({ hang: "first" }) }, { timeout: 200 }));

  const left = await chat.create({ model, messages: asked({ chunks: ["tick "], repeat: 10000, interval_s: 0.01 }), stream: true });
  for await (const chunk of left) if (chunk.choices[0].delta.content) break;
  found["left early"] = left.controller.signal.aborted;
  return found;
}

for (const service of services) console.log(JSON.stringify(await used(service)));
