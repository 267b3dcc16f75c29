import assert from "node:assert/strict";
import { refused } from "./help.mjs";

export default {
  async "one of the server's own for each graph"(client) {
    const [assistant] = await client.assistants.search({ graphId: "steps", metadata: { created_by: "system" } });
    assert.equal(assistant.graph_id, "steps");
    assert.deepEqual(await client.assistants.get(assistant.assistant_id), assistant);
  },

  async "create, change, versions, delete"(client) {
    const assistantId = crypto.randomUUID();
    const options = { graphId: "steps", assistantId, name: "mine", description: "first", metadata: { a: 1 } };
    const made = await client.assistants.create({ ...options, config: { configurable: { depth: 1 } } });
    assert.deepEqual([made.assistant_id, made.name, made.version], [assistantId, "mine", 1]);
    await refused(client.assistants.create(options), 409);
    assert.deepEqual(await client.assistants.create({ ...options, ifExists: "do_nothing" }), made);
    const changed = await client.assistants.update(assistantId, { name: "renamed", config: { configurable: { depth: 2 } } });
    assert.deepEqual([changed.name, changed.version], ["renamed", 2]);
    const versions = await client.assistants.getVersions(assistantId);
    assert.deepEqual(versions.map(({ version }) => version), [2, 1]);
    const back = await client.assistants.setLatest(assistantId, 1);
    assert.deepEqual([back.name, back.config.configurable.depth], ["mine", 1]);
    assert.deepEqual((await client.runs.wait(null, assistantId, { input: { text: "x" } })).trail, ["one", "two"]);
    await client.assistants.delete(assistantId);
    await refused(client.assistants.get(assistantId), 404);
  },

  async "search with pages, count"(client) {
    const metadata = { mark: crypto.randomUUID() };
    const names = ["a", "b", "c"];
    for (const name of names) await client.assistants.create({ graphId: "steps", name, metadata });
    const query = { metadata, sortBy: "name", sortOrder: "asc", limit: 2, includePagination: true };
    const page = await client.assistants.search(query);
    assert.deepEqual(page.assistants.map(({ name }) => name), ["a", "b"]);
    const rest = await client.assistants.search({ ...query, offset: Number(page.next) });
    assert.deepEqual([rest.assistants.map(({ name }) => name), rest.next], [["c"], null]);
    assert.equal(await client.assistants.count({ metadata }), 3);
    assert.deepEqual(await client.assistants.search({ metadata, name: "b", select: ["name"] }), [{ name: "b" }]);
  },

  async "drawing, schemas, subgraphs"(client) {
    const { nodes, edges } = await client.assistants.getGraph("steps");
    assert.deepEqual(nodes.map(({ id }) => id), ["__start__", "one", "two", "__end__"]);
    assert.equal(edges.length, 3);
    const inside = await client.assistants.getGraph("nested", { xray: true });
    assert.ok(inside.nodes.some(({ id }) => id === "inner:one"));
    const [{ assistant_id: id }] = await client.assistants.search({ graphId: "nested" });
    const schemas = await client.assistants.getSchemas(id);
    assert.ok(schemas.state_schema.properties.trail);
    assert.deepEqual(Object.keys(await client.assistants.getSubgraphs(id)), ["inner"]);
    assert.deepEqual(Object.keys(await client.assistants.getSubgraphs(id, { namespace: "inner" })), ["inner"]);
  },
};
