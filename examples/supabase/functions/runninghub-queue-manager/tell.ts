// gate's events: each change of a job's status, at least once, in order. The row follows; browsers watch the row.

import { look } from "../_shared/gate.ts";
import { answer } from "../_shared/http.ts";
import { db, got, TABLES } from "../_shared/rows.ts";
import { cancel } from "../_shared/runninghub.ts";
import type { Job, Message } from "./signed.ts";

const MOVES_THE_QUEUE = ["job.queued", "job.granted", "job.cancelled", "job.expired"];

export async function tell({ type, timestamp, data: job }: Message): Promise<Response> {
  const row = rowOf(type, job);
  if (!row || !TABLES.has(job.tool ?? "")) return answer(200, { skipped: true });
  // A call that was slow may come through after a later one: the row never goes back.
  const written = got(
    await db.from(job.tool!).update({ ...row, gate_at: timestamp }).eq("id", job.job_id).lte("gate_at", timestamp)
      .select("task_id"),
  );
  const task = written?.[0]?.task_id;
  if (task && (type === "job.cancelled" || type === "job.expired")) await cancel(task);
  if (MOVES_THE_QUEUE.includes(type)) await renumber(job.pool);
  return answer(200, { success: true });
}

/** Front ends know neither `granted` nor `expired`. An ended job has no start_id, so that a start under way finds out. */
function rowOf(type: string, job: Job): Record<string, unknown> | null {
  const ended = {
    position: null,
    start_id: "",
    error_message: job.error ?? job.end_reason,
    refunded_credits: job.refund?.amount ?? 0,
  };
  switch (type) {
    case "job.queued":
      return { status: "queued", task_id: null };
    case "job.granted":
      return { status: "starting", position: null };
    case "job.running":
      return { status: "running", position: null };
    case "job.completed":
      return { ...ended, status: "completed", error_message: null, output_url: job.output?.url ?? job.output?.files?.[0]?.url };
    case "job.cancelled":
      return { ...ended, status: "cancelled" };
    case "job.failed":
    case "job.expired":
      return { ...ended, status: "failed" };
    default:
      return null;
  }
}

/** Those who wait move up without an event of their own: the first hundred of them are written anew. */
async function renumber(pool: string): Promise<void> {
  const { status, body } = await look(`/v1/pools/${pool}?limit=100`);
  if (status !== 200) return;
  const queue = (body.queue as (Job & { position: number })[]).filter((job) => TABLES.has(job.tool ?? ""));
  const places = queue.map((job) => ({ table_name: job.tool, id: job.job_id, position: job.position }));
  got(await db.rpc("set_queue_positions", { p_places: places }));
}
