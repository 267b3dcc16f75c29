import assert from "node:assert/strict";
import { refused } from "./help.mjs";

export default {
  async "put, get, overwrite, delete"(client) {
    const place = ["js", crypto.randomUUID()];
    assert.equal((await client.store.getItem(place, "k")) ?? null, null);
    await client.store.putItem(place, "k", { n: 1 });
    await client.store.putItem(place, "k", { n: 2 }, { ttl: 60 });
    const item = await client.store.getItem(place, "k", { refreshTtl: true });
    assert.deepEqual([item.namespace, item.key, item.value], [place, "k", { n: 2 }]);
    assert.ok(item.createdAt && item.updatedAt);
    await client.store.deleteItem(place, "k");
    assert.equal((await client.store.getItem(place, "k")) ?? null, null);
  },

  async "search: filter, pages"(client) {
    const place = ["js", crypto.randomUUID()];
    for (const n of [1, 2, 3]) await client.store.putItem([...place, "deep"], `k${n}`, { n, even: n % 2 === 0 });
    const { items } = await client.store.searchItems(place, { filter: { even: false } });
    assert.deepEqual(items.map(({ key }) => key).sort(), ["k1", "k3"]);
    assert.equal((await client.store.searchItems(place, { limit: 2, offset: 2 })).items.length, 1);
  },

  async "namespaces: prefix, suffix, depth"(client) {
    const mark = crypto.randomUUID();
    for (const last of ["x", "y"]) await client.store.putItem([mark, "a", last], "k", {});
    const list = async (options) => (await client.store.listNamespaces(options)).namespaces;
    assert.deepEqual(await list({ prefix: [mark] }), [[mark, "a", "x"], [mark, "a", "y"]]);
    assert.deepEqual(await list({ prefix: [mark], suffix: ["y"] }), [[mark, "a", "y"]]);
    assert.deepEqual(await list({ prefix: [mark], maxDepth: 2 }), [[mark, "a"]]);
  },

  async "odd namespaces are refused"(client) {
    await assert.rejects(async () => client.store.putItem(["with.dot"], "k", {}));
    await refused(client.store.putItem([""], "k", {}), 422);
  },
};
