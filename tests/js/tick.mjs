// node tick.mjs SDK URL [BEFORE]: starts a resumable run and leaves it; or joins it from the last event seen before.
const [sdk, apiUrl, before] = process.argv.slice(2);
const { Client } = await import(sdk);
const client = new Client({ apiUrl, apiKey: null });
const ids = [];
if (!before) {
  const { thread_id: threadId } = await client.threads.create();
  const payload = { input: { text: "20" }, streamMode: "custom", streamResumable: true, onDisconnect: "continue" };
  let runId;
  for await (const part of client.runs.stream(threadId, "ticker", payload)) {
    runId ??= part.data.run_id;
    ids.push(part.id);
    if (part.data.tick === 4) break;
  }
  console.log(JSON.stringify({ threadId, runId, ids }));
} else {
  const { threadId, runId, ids: seen } = JSON.parse(before);
  const ticks = [];
  for await (const part of client.runs.joinStream(threadId, runId, { lastEventId: seen.at(-1) })) {
    ids.push(part.id);
    if (part.event === "custom") ticks.push(part.data.tick);
  }
  const { status } = await client.runs.get(threadId, runId);
  const { values } = await client.threads.getState(threadId);
  console.log(JSON.stringify({ status, ticks, ids, values }));
}
process.exit(0);
