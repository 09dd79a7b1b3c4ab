// The queue manager, at the address that installed front ends know. It decides nothing: gate does. Only the owner's side can write the
// job's row and start at the provider. Money is gate's too: a charge goes back through gate or not at all, so it goes back once.

import { ask, type Json, need, type Said } from "../_shared/gate.ts";
import { answer, read, serve } from "../_shared/http.ts";
import { db, TABLES } from "../_shared/rows.ts";
import { endUnadmitted } from "./end.ts";
import { endRowsLeft } from "./left.ts";
import { signed } from "./signed.ts";
import { start } from "./start.ts";
import { tell } from "./tell.ts";

const NAME = "runninghub-queue-manager";
const PATHS = [
  "check",
  "run-or-queue",
  "enqueue",
  "check-user-active",
  "process-next",
  "finish",
  "cancel-session",
  "reconcile",
  "status",
];
const ADMITS = ["run-or-queue", "enqueue"];
const SERVICE_KEY = need("SUPABASE_SERVICE_ROLE_KEY");
const PAUSES_MS = [500, 1_500]; // a restart of gate is not worth an error

serve(async (request) => {
  const path = new URL(request.url).pathname.split(`/${NAME}/`)[1]?.replace(/\/+$/, "") ?? "";
  const text = await request.text();
  if (path === "start") return await signed(request, text, start);
  if (path === "events") return await signed(request, text, tell);
  if (!PATHS.includes(path)) return answer(400, { error: "Invalid endpoint" });
  const said = ADMITS.includes(path) ? await admit(path, text, isOurs(request)) : await forward(path, text);
  endRowsLeft(); // after the answer: the caller does not wait for it
  return answer(said.status, said.body, said.retryAfter);
});

async function forward(path: string, text: string): Promise<Said> {
  return await ask(`/functions/v1/${NAME}/${path}`, text, PAUSES_MS);
}

/** Whether one of the owner's own functions asks. Everybody else has the public key only. */
function isOurs(request: Request): boolean {
  const token = request.headers.get("authorization")?.replace(/^Bearer /i, "");
  return token === SERVICE_KEY || request.headers.get("apikey") === SERVICE_KEY;
}

async function admit(path: string, text: string, ours: boolean): Promise<Said> {
  const body = read(text);
  if (body === null) return await forward(path, text); // gate says what is wrong with it
  if (typeof body.table === "string" && !TABLES.has(body.table)) {
    return { status: 400, body: { error: "Unknown table" }, retryAfter: null };
  }
  if (!ours) delete body.creditCost; // what was charged is paid back: a browser could name any sum
  const said = await forward(path, ours ? text : JSON.stringify(body));
  const { table, jobId } = body;
  if (typeof table !== "string" || !(typeof jobId === "string" && jobId)) return said;
  if (said.status >= 400 && said.status < 500) return await refused(said, table, jobId);
  const row = rowOf(said);
  if (row) {
    // Once an event was written, it knows better than this answer, which may be older. `pending` is the row that has heard nothing.
    const may = row.status === "queued" ? ["pending", "queued"] : ["pending"]; // its place in line stands in no event
    await write(table, jobId, row, may);
  }
  return forOldTools(said);
}

/** What a refused admission means for the charge. Where gate has ended the job already, its charge has gone back already. */
async function refused(said: Said, table: string, jobId: string): Promise<Said> {
  const error = String(said.body.error ?? "the job was not admitted");
  if (said.body.refunded === true) {
    await write(table, jobId, { status: "failed", error_message: error }, ["pending"]);
    return said;
  }
  const amount = await endUnadmitted(table, jobId, "failed", error);
  return { ...said, body: { success: false, ...said.body, refunded: amount > 0 } };
}

function rowOf({ status, body }: Said): Json | null {
  if (status !== 200) return null;
  const word = body.status ?? (body.queued ? "queued" : "running");
  switch (word) {
    case "queued":
      return { status: "queued", position: body.position, waited_in_queue: true };
    case "starting":
    case "running":
      return { status: word, position: null };
    default:
      return null; // a repeat for a job that is over
  }
}

/** Installed tools look for `queued`, then for `taskId`, and call everything else a failure: a job that is under way never is one. */
function forOldTools(said: Said): Said {
  if (said.status !== 200 || said.body.queued || said.body.taskId) return said;
  return { ...said, body: { ...said.body, queued: true, position: said.body.position || 1 } };
}

async function write(table: string, jobId: string, row: Json, only: string[]): Promise<void> {
  const { error } = await db.from(table).update(row).eq("id", jobId).in("status", only);
  if (error) console.error(`the row of ${jobId} waits for its event: ${error.message}`);
}
