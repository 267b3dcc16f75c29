import assert from "node:assert/strict";

export async function all(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

export const names = (parts) => parts.map((part) => part.event);

export const dataOf = (parts, event) => parts.filter((part) => part.event === event).map((part) => part.data);

export async function newThread(client, options) {
  return (await client.threads.create(options)).thread_id;
}

export async function refused(promise, status, message) {
  const error = await promise.then(
    () => assert.fail("not refused"),
    (error) => error,
  );
  assert.equal(error.status ?? error.response?.status, status, String(error));
  if (message) assert.match(String(error.message), message);
}

export async function until(look, seconds = 10) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const value = await look();
    if (value) return value;
    assert.ok(Date.now() < end, `still ${value} after ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}
