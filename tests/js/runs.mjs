import assert from "node:assert/strict";
import { all, dataOf, names, newThread, refused, until } from "./help.mjs";

const input = { text: "x" };
const running = (client, threadId, runId) =>
  until(async () => (await client.runs.get(threadId, runId)).status === "running");

export default {
  async "create, get, list, join"(client) {
    const threadId = await newThread(client);
    const run = await client.runs.create(threadId, "steps", { input, metadata: { who: "js" } });
    assert.deepEqual(await client.runs.join(threadId, run.run_id), { text: "x", trail: ["one", "two"] });
    const after = await client.runs.get(threadId, run.run_id);
    assert.equal(after.status, "success");
    assert.equal(after.metadata.who, "js");
    assert.deepEqual((await client.runs.list(threadId)).map(({ run_id }) => run_id), [run.run_id]);
    assert.deepEqual(await client.runs.list(threadId, { status: "error" }), []);
    const select = ["run_id", "status"];
    assert.deepEqual(await client.runs.list(threadId, { select }), [{ run_id: run.run_id, status: "success" }]);
  },

  async "wait, with and without a thread"(client) {
    const expected = { text: "x", trail: ["one", "two"] };
    assert.deepEqual(await client.runs.wait(await newThread(client), "steps", { input }), expected);
    assert.deepEqual(await client.runs.wait(null, "steps", { input }), expected);
  },

  async "wait throws what the graph threw"(client) {
    await assert.rejects(async () => client.runs.wait(await newThread(client), "broken", { input }), /it broke/);
    const quiet = await client.runs.wait(null, "broken", { input, raiseError: false });
    assert.deepEqual(quiet.__error__, { error: "ValueError", message: "it broke" });
  },

  async "batch"(client) {
    const runs = await client.runs.createBatch([
      { assistantId: "steps", input },
      { assistantId: "steps", input },
    ]);
    assert.equal(new Set(runs.map(({ run_id }) => run_id)).size, 2);
  },

  async "answering an interrupt"(client) {
    const threadId = await newThread(client);
    const asked = await all(client.runs.stream(threadId, "approval", { input, streamMode: ["values", "updates"] }));
    const [{ value, id }] = dataOf(asked, "values").at(-1).__interrupt__;
    assert.deepEqual(value, { question: "publish x?" });
    const thread = await client.threads.get(threadId);
    assert.equal(thread.status, "interrupted");
    assert.deepEqual(Object.values(thread.interrupts)[0][0].id, id);
    const parts = await all(client.runs.stream(threadId, "approval", { command: { resume: "yes" }, streamMode: "values" }));
    assert.deepEqual(parts.at(-1).data, { text: "x", decision: "yes", trail: ["one", "ask", "two"] });
    assert.equal((await client.threads.get(threadId)).status, "idle");
  },

  async "answering an interrupt by its id"(client) {
    const threadId = await newThread(client);
    const asked = await client.runs.wait(threadId, "approval", { input });
    const values = await client.runs.wait(threadId, "approval", {
      command: { resume: { [asked.__interrupt__[0].id]: "no" } },
    });
    assert.equal(values.decision, "no");
  },

  async "stopping before a node and going on"(client) {
    const threadId = await newThread(client);
    await client.runs.wait(threadId, "steps", { input, interruptBefore: ["two"] });
    assert.deepEqual((await client.threads.getState(threadId)).next, ["two"]);
    assert.deepEqual((await client.runs.wait(threadId, "steps", { input: null })).trail, ["one", "two"]);
  },

  async "goto and update"(client) {
    const threadId = await newThread(client);
    await client.runs.wait(threadId, "steps", { input });
    const values = await client.runs.wait(threadId, "steps", { command: { goto: "two", update: { text: "jumped" } } });
    assert.deepEqual(values, { text: "jumped", trail: ["one", "two", "two"] });
  },

  async "going on from an earlier checkpoint"(client) {
    const threadId = await newThread(client);
    await client.runs.wait(threadId, "steps", { input });
    const [{ checkpoint }] = (await client.threads.getHistory(threadId)).filter(({ next }) => next[0] === "two");
    const values = await client.runs.wait(threadId, "steps", { checkpoint, input: null });
    assert.deepEqual(values.trail, ["one", "two"]);
    const history = await client.threads.getHistory(threadId);
    assert.equal(history.filter(({ parent_checkpoint: parent }) => parent?.checkpoint_id === checkpoint.checkpoint_id).length, 2);
  },

  async "joining a stream from an event on"(client) {
    const threadId = await newThread(client);
    const payload = { input: { text: "6" }, streamMode: "custom", streamResumable: true, onDisconnect: "continue" };
    let seen = [];
    let runId;
    for await (const part of client.runs.stream(threadId, "ticker", payload)) {
      runId ??= part.data.run_id;
      seen.push(part);
      if (part.data.tick === 2) break; // the connection goes; the run does not
    }
    const lastEventId = seen.at(-1).id;
    assert.ok(lastEventId);
    const rest = await all(client.runs.joinStream(threadId, runId, { lastEventId }));
    assert.deepEqual(dataOf(rest, "custom"), [{ tick: 3 }, { tick: 4 }, { tick: 5 }]);
    const again = await all(client.runs.joinStream(threadId, runId, { lastEventId: "-1" }));
    assert.deepEqual(dataOf(again, "custom").map(({ tick }) => tick), [0, 1, 2, 3, 4, 5]);
    assert.deepEqual([...seen, ...rest].map(({ id }) => id), again.map(({ id }) => id));
    assert.equal((await client.runs.get(threadId, runId)).status, "success");
  },

  async "joining a live run without event ids shows what is still to come"(client) {
    const threadId = await newThread(client);
    const { run_id: runId } = await client.runs.create(threadId, "ticker", { input: { text: "5" }, streamMode: ["custom"] });
    await running(client, threadId, runId);
    const parts = await all(client.runs.joinStream(threadId, runId));
    assert.ok(dataOf(parts, "custom").some(({ tick }) => tick === 4));
  },

  async "joining with some of the run's modes"(client) {
    const threadId = await newThread(client);
    const run = await client.runs.create(threadId, "steps", {
      input,
      streamMode: ["values", "updates", "custom"],
      streamResumable: true,
    });
    for (const streamMode of ["custom", ["custom"], ["updates", "custom"]]) {
      const parts = await all(client.runs.joinStream(threadId, run.run_id, { streamMode, lastEventId: "-1" }));
      assert.deepEqual([...new Set(names(parts))].sort(), [streamMode].flat().sort(), JSON.stringify(streamMode));
    }
  },

  async "a client that leaves cancels its run, if it asked for that"(client) {
    const threadId = await newThread(client);
    const abort = new AbortController();
    const payload = { input: { text: "100" }, streamMode: "custom", onDisconnect: "cancel", signal: abort.signal };
    let runId;
    try {
      for await (const part of client.runs.stream(threadId, "ticker", payload)) {
        runId ??= part.data.run_id;
        if (part.event === "custom") abort.abort();
      }
    } catch (error) {
      assert.equal(error.name, "AbortError");
    }
    await until(async () => (await client.runs.get(threadId, runId)).status === "interrupted");
  },

  async "cancelling, and taking back"(client) {
    const threadId = await newThread(client);
    const first = await client.runs.create(threadId, "ticker", { input: { text: "100" } });
    await running(client, threadId, first.run_id);
    await client.runs.cancel(threadId, first.run_id, true);
    assert.equal((await client.runs.get(threadId, first.run_id)).status, "interrupted");
    const otherId = await newThread(client);
    const second = await client.runs.create(otherId, "ticker", { input: { text: "100" } });
    await running(client, otherId, second.run_id);
    await client.runs.cancel(otherId, second.run_id, true, "rollback");
    await refused(client.runs.get(otherId, second.run_id), 404);
    assert.equal((await client.threads.get(otherId)).status, "idle");
  },

  async "cancelling many"(client) {
    if (!client.runs.cancelMany) return; // not in 2.0.0
    const threadId = await newThread(client);
    const run = await client.runs.create(threadId, "ticker", { input: { text: "100" } });
    await client.runs.cancelMany({ threadId, runIds: [run.run_id], action: "interrupt" });
    await until(async () => (await client.runs.get(threadId, run.run_id)).status === "interrupted");
  },

  async "a second run on a busy thread: each strategy"(client) {
    for (const [multitaskStrategy, statuses] of [
      ["enqueue", ["success", "success"]],
      ["interrupt", ["interrupted", "success"]],
      ["rollback", ["success"]],
    ]) {
      const threadId = await newThread(client);
      const first = await client.runs.create(threadId, "ticker", { input: { text: "3" } });
      await running(client, threadId, first.run_id);
      await refused(client.runs.create(threadId, "steps", { input, multitaskStrategy: "reject" }), 409);
      await client.runs.wait(threadId, "steps", { input, multitaskStrategy });
      const runs = await client.runs.list(threadId);
      assert.deepEqual(runs.map(({ status }) => status).reverse(), statuses, multitaskStrategy);
    }
  },

  async "deleting, later starts, and threads made on the way"(client) {
    const threadId = crypto.randomUUID();
    await refused(client.runs.create(threadId, "steps", { input }), 404);
    const run = await client.runs.create(threadId, "steps", { input, ifNotExists: "create", afterSeconds: 1 });
    assert.equal((await client.runs.get(threadId, run.run_id)).status, "pending");
    await client.runs.join(threadId, run.run_id);
    await client.runs.delete(threadId, run.run_id);
    assert.deepEqual(await client.runs.list(threadId), []);
  },

  async "unknown graphs and bad modes are refused by name"(client) {
    const threadId = await newThread(client);
    await refused(client.runs.create(threadId, "nobody", { input }), 422, /nobody/);
    await refused(client.runs.create(threadId, "steps", { input, streamMode: ["odd"] }), 422, /stream_mode/);
  },

  async "the thread's own stream"(client) {
    const threadId = await newThread(client);
    const abort = new AbortController();
    const seen = [];
    let broken;
    const follow = (async () => {
      const options = { streamMode: ["run_modes"], signal: abort.signal };
      for await (const part of client.threads.joinStream(threadId, options)) seen.push(part);
    })().catch((error) => {
      if (!abort.signal.aborted) broken = error;
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    await client.runs.wait(threadId, "steps", { input, streamMode: ["values"] });
    await until(() => broken || names(seen).filter((name) => name === "values").length === 3);
    assert.ifError(broken);
    abort.abort();
    await follow;
  },
};
