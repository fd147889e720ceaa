// The `ollama` package from npm as people use it: `node client.mjs URL '{"call": …}'` does one
// thing and prints what came of it as JSON.
import { Ollama } from "ollama";

const [host, asked] = process.argv.slice(2);
const { call, ask } = JSON.parse(asked);
let cacheStatus = "";
const client = new Ollama({
  host,
  fetch: async (...args) => {
    const response = await fetch(...args);
    cacheStatus = response.headers.get("cache-status") ?? "";
    return response;
  },
});

async function answer(kind) {
  const given = await client[kind](ask);
  const parts = ask.stream ? [] : [given];
  if (ask.stream) for await (const part of given) parts.push(part);
  const said = parts.map((part) => part.message ?? { content: part.response });
  return {
    text: said.map((one) => one.content).join(""),
    thinking: said.map((one) => one.thinking ?? "").join(""),
    calls: said.flatMap((one) => one.tool_calls ?? []).map((one) => one.function),
    parts: parts.length,
    tokens: parts.at(-1).eval_count,
    cache_status: cacheStatus,
  };
}

const calls = {
  chat: () => answer("chat"),
  generate: () => answer("generate"),
  embed: async () => (await client.embed(ask)).embeddings,
  models: async () => (await client.list()).models.map((model) => model.name),
  leave: async () => {
    const stream = await client.chat({ ...ask, stream: true });
    for await (const part of stream) {
      stream.abort();
      return part.done;
    }
  },
};

try {
  console.log(JSON.stringify({ is: await calls[call]() }));
} catch (error) {
  console.log(JSON.stringify({ error: error.name, status: error.status_code, text: error.message }));
}
