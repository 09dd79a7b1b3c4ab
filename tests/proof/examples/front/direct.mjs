// Calls gate itself through the real supabase-js, and returns what the caller's code can read of each answer. In Node: `node direct.mjs JSON`.
export async function ask(createClient, { url, calls }) {
  const answers = [];
  for (const { key, schema, rpc, invoke, args, options } of calls) {
    const client = createClient(url, key, { auth: { persistSession: false } });
    if (invoke) {
      const { data, error } = await client.functions.invoke(invoke, { body: args, ...options });
      answers.push({ data, error: error && String(error) });
    } else {
      const { data, error, status } = await (schema ? client.schema(schema) : client).rpc(rpc, args, options);
      answers.push({ data, status, error: error && { message: error.message, code: error.code, details: error.details, hint: error.hint } });
    }
  }
  return answers;
}

if (globalThis.process?.argv[2]) {
  const { createClient } = await import("@supabase/supabase-js");
  console.log(JSON.stringify(await ask(createClient, JSON.parse(process.argv[2]))));
}
