// The queue manager, at the address that installed front ends know. It decides nothing: gate does. Here is what only the owner's
// side can do: write the job's row, give back the charge of a job that was not admitted, start at the provider.

import { ask, type Json, type Said } from "../_shared/gate.ts";
import { answer, read, serve } from "../_shared/http.ts";
import { db, got, TABLES } from "../_shared/rows.ts";
import { signed } from "./signed.ts";
import { start } from "./start.ts";
import { tell } from "./tell.ts";

const NAME = "runninghub-queue-manager";
const PATHS = ["check", "run-or-queue", "enqueue", "check-user-active", "process-next", "finish", "cancel-session", "status"];
const ADMITS = ["run-or-queue", "enqueue"];
const NOT_ADMITTED = ["user_busy", "queue_full"];
const PAUSES_MS = [500, 1_500]; // a restart of gate is not worth an error

serve(async (request) => {
  const path = new URL(request.url).pathname.split(`/${NAME}/`)[1]?.replace(/\/+$/, "") ?? "";
  const text = await request.text();
  if (path === "start") return await signed(request, text, start);
  if (path === "events") return await signed(request, text, tell);
  if (!PATHS.includes(path)) return answer(400, { error: "Invalid endpoint" });
  const said = ADMITS.includes(path) ? await admit(path, text) : await forward(path, text);
  return answer(said.status, said.body, said.retryAfter);
});

async function forward(path: string, text: string): Promise<Said> {
  return await ask(`/functions/v1/${NAME}/${path}`, text, PAUSES_MS);
}

async function admit(path: string, text: string): Promise<Said> {
  const body = read(text);
  if (body === null) return await forward(path, text); // gate says what is wrong with it
  if (typeof body.table === "string" && !TABLES.has(body.table)) {
    return { status: 400, body: { error: "Unknown table" }, retryAfter: null };
  }
  const said = await forward(path, text);
  const { table, jobId } = body as { table: string; jobId: string };
  if (NOT_ADMITTED.includes(String(said.body.code))) {
    const amount = got(await db.rpc("give_back_charge", { p_table_name: table, p_job_id: jobId, p_error: said.body.error }));
    return { ...said, body: { ...said.body, refunded: amount > 0 } };
  }
  const row = rowOf(said);
  if (row) {
    // Once an event was written, it knows better than this answer, which may be older. `pending` is the row that has heard nothing.
    const may = row.status === "queued" ? ["pending", "queued"] : ["pending"]; // its place in line stands in no event
    const { error } = await db.from(table).update(row).eq("id", jobId).in("status", may);
    if (error) console.error(`the row of ${jobId} waits for its event: ${error.message}`);
  }
  return said;
}

function rowOf({ status, body }: Said): Json | null {
  if (status === 400 && body.success === false) return { status: "failed", error_message: body.error };
  if (status !== 200) return null;
  return body.queued ? { status: "queued", position: body.position } : { status: "running", position: null };
}
