// Thread streams of the 1.15 line; 2.0.0 has none.
import assert from "node:assert/strict";
import { all, until } from "./help.mjs";

const human = (content) => ({ messages: [{ role: "user", content }] });
const text = async (message) => await message.text;

const tests = {
  async "values and output"(client, { open }) {
    const thread = open(client, "steps");
    // Asked for first: the SDK drops on a socket what is asked for while the run's end is on its way.
    const values = all(thread.values);
    const { run_id } = await thread.run.start({ input: { text: "x" }, metadata: { who: "me" } });
    assert.deepEqual((await values).at(-1).trail, ["one", "two"]);
    assert.deepEqual((await thread.output).trail, ["one", "two"]);
    assert.equal((await client.runs.get(thread.threadId, run_id)).metadata.who, "me");
    assert.equal(thread.interrupted, false);
    await thread.close();
  },

  async "several runs on one stream"(client, { open }) {
    const thread = open(client, "steps");
    for (const count of [2, 4]) {
      const subscription = await thread.subscribe(["values", "lifecycle"]);
      await thread.run.start({ input: { text: "x" } });
      for await (const event of subscription) {
        if (event.method === "values" && event.params.data.trail?.length === count) break;
      }
    }
    await thread.close();
  },

  async "messages"(client, { open }) {
    const thread = open(client, "chat");
    const messages = all(thread.messages);
    await thread.run.start({ input: human("hi") });
    assert.deepEqual(await Promise.all((await messages).map(text)), ["hello brave new world"]);
    await thread.close();
  },

  async "messages that are spoken at the same time"(client, { open }) {
    const thread = open(client, "choir");
    const messages = all(thread.messages);
    await thread.run.start({ input: human("hi") });
    assert.deepEqual(await Promise.all((await messages).map(text)), ["you said hi", "you said hi"]);
    await thread.close();
  },

  async "tool calls"(client, { open }) {
    const thread = open(client, "tooled");
    const calls = all(thread.toolCalls);
    await thread.run.start({ input: human("Oslo") });
    const call = (await calls).at(-1);
    assert.deepEqual([call.name, call.input], ["weather", { city: "Oslo" }]);
    assert.match(JSON.stringify(await call.output), /sunny in Oslo/);
    await thread.close();
  },

  async "answers of tools are messages"(client, { open }) {
    const thread = open(client, "tooled");
    const messages = all(thread.messages);
    const own = all(await thread.subscribe({ channels: ["messages"], namespaces: [["tools:call-1"]] }));
    await thread.run.start({ input: human("Oslo") });
    const said = await Promise.all((await messages).map(text));
    assert.deepEqual(said, ["sunny in Oslo", "you said sunny in Oslo"]);
    await thread.close();
    const parts = (await own).map((event) => event.params.data);
    assert.deepEqual([parts[0].role, parts[0].tool_call_id], ["tool", "call-1"]);
    assert.equal(parts.at(-1).event, "message-finish");
  },

  async "extensions, live and after the run"(client, { open }) {
    const thread = open(client, "counted");
    const live = all(thread.extensions.progress);
    await thread.run.start({ input: { text: "x" } });
    assert.equal((await live).at(-1).steps, 5);
    assert.deepEqual(await thread.extensions.progress, { steps: 5 });
    assert.equal(await thread.extensions.note, "by hand");
    await thread.close();
    const later = open(client, "counted", thread.threadId);
    assert.deepEqual(await later.extensions.progress, { steps: 5 });
    await later.close();
  },

  async "subgraphs"(client, { open }) {
    const thread = open(client, "team");
    const members = all(thread.subgraphs);
    await thread.run.start({ input: human("hi") });
    assert.deepEqual((await members).map(({ name }) => name), ["ann", "bob"]);
    await thread.close();
  },

  async "interrupts are answered"(client, { open }) {
    const thread = open(client, "approval");
    await thread.run.start({ input: { text: "x" } });
    await until(() => thread.interrupted);
    const [{ interruptId, payload, namespace }] = thread.interrupts;
    assert.deepEqual([payload, namespace], [{ question: "publish x?" }, []]);
    await thread.input.respond({ interrupt_id: interruptId, namespace, response: "yes" });
    await until(async () => (await client.threads.get(thread.threadId)).status === "idle");
    assert.equal((await client.threads.getState(thread.threadId)).values.decision, "yes");
    await thread.close();
  },

  async "a cancelled run ends the iterators"(client, { open }) {
    const thread = open(client, "ticker");
    const { run_id } = await thread.run.start({ input: { text: "200" } });
    const values = all(thread.values);
    const subscription = await thread.subscribe("custom");
    for await (const event of subscription) {
      assert.equal(event.method, "custom");
      break;
    }
    await client.runs.cancel(thread.threadId, run_id);
    assert.deepEqual((await values).at(-1).trail, []);
    await thread.close();
  },

  async "a failed run"(client, { open }) {
    const thread = open(client, "broken");
    const subscription = await thread.subscribe(["lifecycle"]);
    await thread.run.start({ input: { text: "x" } });
    const ends = [];
    for await (const event of subscription) {
      ends.push(event.params.data);
      if (event.params.data.event === "failed") break;
    }
    assert.deepEqual(ends.map(({ event, error }) => [event, error]), [["running", undefined], ["failed", "it broke"]]);
    await thread.close();
  },

  async "what is refused"(client, { open }) {
    const thread = open(client, "nobody");
    await assert.rejects(thread.run.start({ input: {} }), /422: Invalid assistant: 'nobody'/);
    await assert.rejects(thread.state.get({}), /unknown_command|Unknown protocol command/);
    await assert.rejects(thread.input.respond({ interrupt_id: "x", response: 1 }), /no_such_run|No interrupted run/);
    await thread.close();
  },
};

function opener(transport, webSocketFactory) {
  return (client, assistantId, threadId = crypto.randomUUID()) =>
    client.threads.stream(threadId, { assistantId, transport, webSocketFactory });
}

const named = {};
for (const transport of ["sse", "websocket"]) {
  const { WebSocket } = await import("ws");
  const open = opener(transport, (url) => new WebSocket(url));
  for (const [name, test] of Object.entries(tests)) {
    named[`${transport}: ${name}`] = (client) => test(client, { open });
  }
}

export default named;
