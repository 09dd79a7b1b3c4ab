// gate's events: each change of a job's status, at least once, in order. The row follows; browsers watch the row.

import { look } from "../_shared/gate.ts";
import { answer } from "../_shared/http.ts";
import { db, got, TABLES } from "../_shared/rows.ts";
import { costOf, urlOf } from "./output.ts";
import type { Job, Message } from "./signed.ts";

const MOVES_THE_QUEUE = ["job.queued", "job.granted", "job.failed", "job.cancelled", "job.expired"];
const TIMEOUTS: Record<string, string> = { // the reason of an expiry is a word for programs; this is what users read
  queue_timeout: "The job waited too long for its turn.",
  claim_timeout: "The job could not be started in time.",
  lease_timeout: "The job took too long and was stopped.",
  hold_limit: "The job took too long and was stopped.",
};
const WAITED_S = 1; // a shorter wait is the admission itself

export async function tell({ type, timestamp, data: job }: Message): Promise<Response> {
  if (!TABLES.has(job.tool ?? "")) return answer(200, { skipped: true });
  if (type === "job.late") return await keepLate(job);
  const row = rowOf(type, timestamp, job);
  if (!row) return answer(200, { skipped: true });
  // A call that was slow may come through after a later one: the row never goes back.
  got(await db.from(job.tool!).update({ ...row, gate_at: timestamp }).eq("id", job.job_id).lte("gate_at", timestamp));
  if (MOVES_THE_QUEUE.includes(type)) await renumber(job.pool);
  return answer(200, { success: true });
}

/** Front ends know neither `granted` nor `expired`. An ended job has no start_id, so that a start under way finds out. */
function rowOf(type: string, at: string, job: Job): Record<string, unknown> | null {
  const ended = {
    position: null,
    start_id: "",
    completed_at: at,
    error_message: job.error ?? TIMEOUTS[job.end_reason ?? ""] ?? job.end_reason,
    refunded_credits: job.refund?.amount ?? 0,
    ...costs(job),
  };
  switch (type) {
    case "job.queued":
      return { status: "queued" }; // `task_id` is of the start alone: this event may come again after it
    case "job.granted":
      return { status: "starting", position: null };
    case "job.running":
      return { status: "running", position: null, started_at: at, ...waited(job) };
    case "job.completed":
      return { ...ended, status: "completed", error_message: null, output_url: urlOf(job.output) };
    case "job.cancelled":
      return { ...ended, status: "cancelled" };
    case "job.failed":
    case "job.expired":
      return { ...ended, status: "failed" };
    default:
      return null;
  }
}

function waited(job: Job): Record<string, unknown> {
  if (!job.lease) return {};
  const seconds = (Date.parse(job.lease.granted_at) - Date.parse(job.enqueued_at)) / 1000;
  return { queue_wait_seconds: Math.max(0, Math.round(seconds)), ...(seconds > WAITED_S && { waited_in_queue: true }) };
}

function costs(job: Job): Record<string, unknown> {
  const cost = costOf(job.output);
  return cost === null ? {} : { rh_cost: cost };
}

/** The provider succeeded after gate had ended the job: its refund and its status stay, the output is kept for the owner. */
async function keepLate(job: Job): Promise<Response> {
  const url = urlOf(job.late_output);
  if (url) got(await db.from(job.tool!).update({ late_output_url: url }).eq("id", job.job_id));
  return answer(200, { success: true });
}

/**
 * Those who wait move up without an event of their own: the first hundred of them are written anew. A failure is only logged. The event
 * is in its row already, and the next event writes the places again.
 */
async function renumber(pool: string): Promise<void> {
  await writePlaces(pool).catch((error) => console.error("the places in line are not written:", error));
}

async function writePlaces(pool: string): Promise<void> {
  const { status, body } = await look(`/v1/pools/${pool}?limit=100`);
  if (status !== 200) return;
  const queue = (body.queue as (Job & { position: number })[]).filter((job) => TABLES.has(job.tool ?? ""));
  const places = queue.map((job) => ({ table_name: job.tool, id: job.job_id, position: job.position }));
  got(await db.rpc("set_queue_positions", { p_places: places }));
}
