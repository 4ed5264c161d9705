// OpenAI's own client for Node.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const installed = createRequire(resolve(".cache/clients/node/package.json"));
const { default: OpenAI, NotFoundError, BadRequestError, AuthenticationError } = installed("openai");

const server = process.env.CHORALE_HTTP;
const key = process.env.CHORALE_KEY;
const expect = JSON.parse(readFileSync(process.env.CHORALE_EXPECT, "utf8"));
const { prompt, voices, text_prompt: textPrompt, text_tokens: textTokens } = expect;
const messages = [{ role: "user", content: prompt }];
const greedy = { messages, temperature: 0, max_tokens: 96 };
const chat = (voice) => expect.chat[voice].text;
const ok = (name) => console.log("ok", name);

// doc: chat
const client = new OpenAI({ baseURL: `${server}/v1`, apiKey: key });
const answer = await client.chat.completions.create({
  model: "pirate",
  messages: [{ role: "user", content: prompt }],
  temperature: 0,
  max_tokens: 96,
});
console.log(answer.choices[0].message.content);
// doc: end
assert.equal(answer.choices[0].message.content, chat("pirate"));
assert.equal(answer.choices[0].finish_reason, "stop");
assert.equal(answer.usage.completion_tokens, expect.chat.pirate.completion_tokens);
ok("chat");

// doc: stream
const stream = await client.chat.completions.create({
  model: "json",
  messages: [{ role: "user", content: prompt }],
  temperature: 0,
  max_tokens: 96,
  stream: true,
  stream_options: { include_usage: true },
});
let said = "";
let usage;
for await (const chunk of stream) {
  said += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
console.log(said, usage.completion_tokens);
// doc: end
assert.equal(said, chat("json"));
assert.equal(usage.completion_tokens, expect.chat.json.completion_tokens);
const events = client.chat.completions.stream({ model: "label", ...greedy });
let deltas = "";
events.on("content", (delta) => (deltas += delta));
assert.equal((await events.finalChatCompletion()).choices[0].message.content, chat("label"));
assert.equal(deltas, chat("label"));
ok("stream");

const names = [];
for await (const card of client.models.list()) names.push(card.id);
assert.deepEqual(voices.filter((v) => !names.includes(v)), []);
assert.equal((await client.models.retrieve("json")).id, "json");
ok("models");

const complete = (more) =>
  client.completions.create({ prompt: textPrompt, temperature: 0, max_tokens: textTokens, ignore_eos: true, ...more });
const both = await complete({ prompt: [textPrompt, textPrompt], lora_path: ["json", "sql"] });
assert.deepEqual(both.choices.map((c) => c.text), [expect.text.json.text, expect.text.sql.text]);
said = "";
for await (const chunk of await complete({ model: "label", stream: true })) said += chunk.choices[0].text;
assert.equal(said, expect.text.label.text);
ok("completions");

const scored = (await client.chat.completions.create({ model: "label", ...greedy, logprobs: true, top_logprobs: 2 })).choices[0].logprobs.content;
assert.ok(scored.length >= 3 && scored.every((t) => t.logprob <= 0 && t.top_logprobs.length === 2));
assert.equal(scored.filter((t) => !t.token.startsWith("<|")).map((t) => t.token).join(""), chat("label"));
ok("logprobs");

const sample = async (seed) =>
  (await client.chat.completions.create({ model: voices[0], messages, n: 3, seed, temperature: 1.5, max_tokens: 8 })).choices.map((c) => c.message.content);
const first = await sample(11);
assert.deepEqual(await sample(11), first);
assert.ok(first.length === 3 && new Set(first).size > 1);
ok("n and seed");

const stop = chat("pirate").slice(8, 14);
const stopped = (await client.chat.completions.create({ model: "pirate", ...greedy, stop })).choices[0];
assert.deepEqual([stopped.message.content, stopped.finish_reason], [chat("pirate").split(stop)[0], "stop"]);
const cut = await client.chat.completions.create({ model: "json", messages, temperature: 0, max_completion_tokens: 5 });
assert.deepEqual([cut.choices[0].finish_reason, cut.usage.completion_tokens], ["length", 5]);
ok("stop and length");

const fails = async (kind, call, word) => {
  await assert.rejects(call, (error) => {
    assert.equal(error.constructor, kind, `${error}`);
    assert.match(error.message, word);
    return true;
  });
};
// doc: errors
try {
  await client.chat.completions.create({ model: "nobody", messages: [{ role: "user", content: prompt }] });
} catch (error) {
  if (!(error instanceof NotFoundError)) throw error; // the base model never answers in an adapter's place
  console.log(error.code, error.message);
}
// doc: end
await fails(NotFoundError, () => client.chat.completions.create({ model: "nobody", messages }), /nobody/);
ok("unknown model");
await fails(BadRequestError, () => client.chat.completions.create({ model: "json", messages, temperature: -1 }), /temperature/);
await fails(BadRequestError, () => client.completions.create({ model: "json", prompt: "a ".repeat(9000) }), /context/);
const schema = { type: "json_schema", json_schema: { name: "x", schema: {} } };
await fails(BadRequestError, () => client.chat.completions.create({ model: "json", messages, response_format: schema }), /response_format/);
ok("bad requests");
await fails(AuthenticationError, () => new OpenAI({ baseURL: `${server}/v1`, apiKey: "wrong" }).models.list(), /key/i);
ok("keys");

const endless = await client.completions.create({ model: "sql", prompt: textPrompt, max_tokens: 1500, ignore_eos: true, stream: true });
for await (const chunk of endless) {
  assert.equal(chunk.model, "sql");
  break; // closes the connection
}
ok("abort");

const answers = await Promise.all(voices.map((model) => client.chat.completions.create({ model, ...greedy, max_tokens: expect.short_tokens })));
assert.deepEqual(answers.map((a) => a.choices[0].message.content), voices.map((v) => expect.short[v].text));
ok("together");
