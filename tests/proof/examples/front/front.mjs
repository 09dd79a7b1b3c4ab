// An installed front end: the real supabase-js, told an address, a public key and what to ask. Says what it was answered.
import { createClient } from "@supabase/supabase-js";

const { url, key, calls } = JSON.parse(process.argv[2]);
const client = createClient(url, key, { auth: { persistSession: false } });
const answers = [];
for (const { name, body } of calls) {
  const { data, error } = await client.functions.invoke(name, { body });
  answers.push(error ? { status: error.context.status, body: await error.context.json() } : { status: 200, body: data });
}
console.log(JSON.stringify(answers));
