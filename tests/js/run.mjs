// node run.mjs SDK URL FILE: every test that FILE exports, against a server, with a version of the SDK.
const [sdk, apiUrl, file] = process.argv.slice(2);
const { Client } = await import(sdk);
const { default: tests } = await import(`./${file}`);
const client = new Client({ apiUrl, apiKey: null, callerOptions: { maxRetries: 0 } });
let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test(client, { sdk, apiUrl });
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
