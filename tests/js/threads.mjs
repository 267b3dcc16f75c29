import assert from "node:assert/strict";
import { newThread, refused } from "./help.mjs";

const input = { text: "x" };

export default {
  async "create, get, update, delete"(client) {
    const thread = await client.threads.create({ metadata: { colour: "red" }, graphId: "steps", ttl: 60 });
    assert.equal(thread.status, "idle");
    assert.deepEqual((await client.threads.get(thread.thread_id)).metadata, { colour: "red", graph_id: "steps" });
    const changed = await client.threads.update(thread.thread_id, { metadata: { size: 2 } });
    assert.deepEqual(changed.metadata, { colour: "red", graph_id: "steps", size: 2 });
    await client.threads.delete(thread.thread_id);
    await refused(client.threads.get(thread.thread_id), 404);
  },

  async "metadata by patchState"(client) {
    const threadId = await newThread(client, { metadata: { a: 1 } });
    assert.equal(await client.threads.patchState(threadId, { b: 2 }), undefined);
    assert.deepEqual((await client.threads.get(threadId)).metadata, { a: 1, b: 2 });
  },

  async "an update that needs no answer"(client, { sdk }) {
    if (sdk === "sdk200") return; // does not know it
    const threadId = await newThread(client);
    assert.equal(await client.threads.update(threadId, { metadata: { a: 1 }, returnMinimal: true }), undefined);
    assert.deepEqual((await client.threads.get(threadId)).metadata, { a: 1 });
  },

  async "ids chosen by the client"(client) {
    const threadId = crypto.randomUUID();
    assert.equal((await client.threads.create({ threadId })).thread_id, threadId);
    await refused(client.threads.create({ threadId }), 409);
    assert.equal((await client.threads.create({ threadId, ifExists: "do_nothing" })).thread_id, threadId);
  },

  async "search, count, pages"(client) {
    const metadata = { mark: crypto.randomUUID() };
    const made = [];
    for (const n of [1, 2, 3]) made.push(await newThread(client, { metadata: { ...metadata, n } }));
    assert.equal(await client.threads.count({ metadata }), 3);
    const query = { metadata, sortBy: "created_at", sortOrder: "asc", select: ["thread_id"] };
    assert.deepEqual(await client.threads.search(query), made.map((thread_id) => ({ thread_id })));
    assert.deepEqual(await client.threads.search({ ...query, limit: 1, offset: 1 }), [{ thread_id: made[1] }]);
    assert.equal((await client.threads.search({ ids: made.slice(0, 2) })).length, 2);
    await client.runs.wait(made[0], "steps", { input });
    assert.equal((await client.threads.search({ metadata, status: "idle", values: { text: "x" } })).length, 1);
  },

  async "state: read, change, select, by checkpoint"(client) {
    const threadId = await newThread(client);
    await client.runs.wait(threadId, "steps", { input });
    const state = await client.threads.getState(threadId);
    assert.deepEqual(state.values, { text: "x", trail: ["one", "two"] });
    assert.deepEqual(state.next, []);
    const changed = await client.threads.updateState(threadId, { values: { trail: ["by hand"] }, asNode: "one" });
    assert.ok(changed.configurable.checkpoint_id);
    const after = await client.threads.getState(threadId);
    assert.deepEqual([after.values.trail.at(-1), after.next], ["by hand", ["two"]]);
    const before = await client.threads.getState(threadId, state.checkpoint.checkpoint_id);
    assert.deepEqual(before.values, state.values);
    assert.deepEqual((await client.threads.getState(threadId, state.checkpoint)).values, state.values);
    await refused(client.threads.updateState(threadId, { values: "odd", asNode: "nobody" }), 400);
  },

  async "state of a subgraph"(client) {
    const threadId = await newThread(client);
    await client.runs.wait(threadId, "nested", { input });
    const state = await client.threads.getState(threadId, undefined, { subgraphs: true });
    assert.deepEqual(state.values.trail, ["one", "two"]);
  },

  async "history: newest first, pages"(client) {
    const threadId = await newThread(client);
    await client.runs.wait(threadId, "steps", { input });
    const history = await client.threads.getHistory(threadId);
    assert.deepEqual(history.map(({ next }) => next[0]), [undefined, "two", "one", "__start__"]);
    const [newest] = await client.threads.getHistory(threadId, { limit: 1 });
    const earlier = await client.threads.getHistory(threadId, { before: { configurable: newest.checkpoint } });
    assert.deepEqual(earlier.map(({ checkpoint }) => checkpoint), history.slice(1).map(({ checkpoint }) => checkpoint));
  },

  async "supersteps, and a copy"(client) {
    const made = await client.threads.create({
      graphId: "steps",
      supersteps: [
        { updates: [{ values: { text: "given" }, asNode: "__start__" }] },
        { updates: [{ values: { trail: ["one"] }, asNode: "one" }] },
      ],
    });
    const copy = await client.threads.copy(made.thread_id);
    assert.notEqual(copy.thread_id, made.thread_id);
    const state = await client.threads.getState(copy.thread_id);
    assert.deepEqual([state.values, state.next], [{ text: "given", trail: ["one"] }, ["two"]]);
    assert.deepEqual((await client.runs.wait(copy.thread_id, "steps", { input: null })).trail, ["one", "two"]);
    assert.deepEqual((await client.threads.getState(made.thread_id)).next, ["two"]);
  },

  async "prune"(client) {
    if (!client.threads.prune) return; // not in 2.0.0
    const threadId = await newThread(client);
    assert.deepEqual(await client.threads.prune([threadId]), { pruned_count: 1 });
    await refused(client.threads.get(threadId), 404);
  },
};
