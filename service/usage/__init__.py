"""Who used how much: one record for each request that was served, kept in a file. Nothing here knows HTTP."""
