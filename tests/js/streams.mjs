import assert from "node:assert/strict";
import { all, dataOf, names, newThread } from "./help.mjs";

const input = { text: "x" };
const stream = async (client, graph, payload) =>
  all(client.runs.stream(await newThread(client), graph, { input, ...payload }));

export default {
  async "values: the input, then every step"(client) {
    const parts = await stream(client, "steps", { streamMode: "values" });
    assert.deepEqual(names(parts), ["metadata", "values", "values", "values"]);
    assert.deepEqual(dataOf(parts, "values").at(-1), { text: "x", trail: ["one", "two"] });
  },

  async "updates: one per node"(client) {
    const parts = await stream(client, "steps", { streamMode: "updates" });
    assert.deepEqual(dataOf(parts, "updates"), [{ one: { trail: ["one"] } }, { two: { trail: ["two"] } }]);
  },

  async "custom: what a node writes"(client) {
    const parts = await stream(client, "steps", { streamMode: "custom" });
    assert.deepEqual(dataOf(parts, "custom"), [{ note: "from two" }]);
  },

  async "messages-tuple: tokens with their metadata"(client) {
    const messages = [{ role: "user", content: "hi" }];
    const parts = await stream(client, "chat", { input: { messages }, streamMode: "messages-tuple" });
    const chunks = dataOf(parts, "messages");
    assert.ok(chunks.length > 3);
    assert.equal(chunks.map(([chunk]) => chunk.content).join(""), "hello brave new world");
    assert.ok(chunks.every(([chunk, metadata]) => chunk.type === "AIMessageChunk" && metadata.langgraph_node === "answer"));
  },

  async "messages: the message as it grows"(client) {
    const messages = [{ role: "user", content: "hi" }];
    const parts = await stream(client, "chat", { input: { messages }, streamMode: "messages" });
    const seen = dataOf(parts, "messages/partial").map(([message]) => message.content);
    assert.ok(seen.length > 3);
    assert.equal(seen.at(-1), "hello brave new world");
    assert.ok(seen.every((text) => "hello brave new world".startsWith(text)));
    assert.ok(names(parts).includes("messages/metadata"));
  },

  async "events: those of langchain"(client) {
    const parts = await stream(client, "steps", { streamMode: "events" });
    const kinds = dataOf(parts, "events").map(({ event }) => event);
    assert.equal(kinds[0], "on_chain_start");
    assert.equal(kinds.at(-1), "on_chain_end");
  },

  async "debug, tasks, checkpoints"(client) {
    for (const [streamMode, count] of [["debug", 7], ["tasks", 4], ["checkpoints", 3]]) {
      const parts = await stream(client, "steps", { streamMode });
      assert.ok(names(parts).slice(1).every((name) => name === streamMode), streamMode);
      assert.ok(parts.length - 1 >= count, `${streamMode}: ${parts.length - 1}`);
    }
  },

  async "several modes at once"(client) {
    const parts = await stream(client, "steps", { streamMode: ["values", "updates", "custom"] });
    assert.deepEqual(new Set(names(parts)), new Set(["metadata", "values", "updates", "custom"]));
  },

  async "subgraphs: their events carry their namespace"(client) {
    const parts = await stream(client, "nested", { streamMode: "updates", streamSubgraphs: true });
    const inner = names(parts).filter((name) => name.startsWith("updates|inner:"));
    assert.equal(inner.length, 2);
    assert.equal(names(parts).at(-1), "updates");
  },

  async "a failing graph: an error event with its own message"(client) {
    const threadId = await newThread(client);
    const parts = await all(client.runs.stream(threadId, "broken", { input })).catch((error) => error);
    if (parts instanceof Error) assert.match(parts.message, /it broke/);
    else assert.deepEqual(parts.at(-1), { ...parts.at(-1), event: "error", data: { error: "ValueError", message: "it broke" } });
    assert.equal((await client.threads.get(threadId)).status, "error");
  },

  async "without a thread"(client) {
    const parts = await all(client.runs.stream(null, "steps", { input, streamMode: "values" }));
    assert.deepEqual(parts.at(-1).data.trail, ["one", "two"]);
  },

  async "onRunCreated tells the ids"(client) {
    const threadId = await newThread(client);
    let created;
    const onRunCreated = (ids) => (created = ids);
    const [metadata] = await all(client.runs.stream(threadId, "steps", { input, onRunCreated }));
    assert.deepEqual(created, { run_id: metadata.data.run_id, thread_id: threadId });
  },

  async "feedback keys"(client) {
    const parts = await stream(client, "steps", { feedbackKeys: ["nice"] });
    assert.ok(parts.length > 1);
  },
};
