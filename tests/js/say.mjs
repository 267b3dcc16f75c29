// node say.mjs SDK URL USER TEXT [THREAD]: one step of the walk-through; prints the thread, then each event.
const [sdk, apiUrl, user, content, given] = process.argv.slice(2);
const { Client } = await import(sdk);
const client = new Client({ apiUrl, apiKey: null });
const thread = given ?? (await client.threads.create()).thread_id;
console.log(JSON.stringify(thread));
const stream = client.runs.stream(thread, "agent", {
  input: { messages: [{ role: "user", content }] },
  config: { configurable: { user_id: user } },
});
for await (const { event, data } of stream) console.log(JSON.stringify([event, data]));
