import assert from "node:assert/strict";
import { newThread, refused } from "./help.mjs";

const never = "0 0 29 2 *";

export default {
  async "create, search, count, change, delete"(client) {
    const mark = crypto.randomUUID();
    const made = await client.crons.create("steps", { schedule: never, input: { text: mark } });
    assert.ok(made.cron_id);
    const found = await client.crons.search({ limit: 1000 });
    const mine = found.filter(({ payload }) => payload.input?.text === mark);
    assert.deepEqual(mine.map(({ cron_id }) => cron_id), [made.cron_id]);
    assert.ok((await client.crons.count()) >= 1);
    const changed = await client.crons.update(made.cron_id, { schedule: "0 1 29 2 *", enabled: false });
    assert.deepEqual([changed.schedule, changed.enabled], ["0 1 29 2 *", false]);
    await client.crons.delete(made.cron_id);
    await refused(client.crons.delete(made.cron_id), 404);
  },

  async "for a thread"(client) {
    const threadId = await newThread(client);
    const made = await client.crons.createForThread(threadId, "steps", { schedule: never, input: { text: "x" } });
    const [cron] = await client.crons.search({ threadId });
    assert.deepEqual([cron.cron_id, cron.thread_id], [made.cron_id, threadId]);
    assert.equal(await client.crons.count({ threadId }), 1);
    await client.threads.delete(threadId);
    assert.equal(await client.crons.count({ threadId }), 0);
  },

  async "a schedule that is none is refused"(client) {
    await refused(client.crons.create("steps", { schedule: "often" }), 422, /often/);
  },
};
