// gate's start call: one task at the provider, however often the call comes.
//
// The row remembers in `start_id` for which call a task was started, before the provider is asked. A call that finds its own id there
// with a task is told that task. Without a task an earlier call is under way, or was cut off: nothing is started again, and gate asks
// again. Where the earlier call was cut off, gate ends the job when its time to start is over, and pays back.

import { answer } from "../_shared/http.ts";
import { db, got, TABLES } from "../_shared/rows.ts";
import { run } from "../_shared/runninghub.ts";
import type { Message } from "./signed.ts";

const ENDED = "(completed,failed,cancelled)";

export async function start({ id, data: job }: Message): Promise<Response> {
  const table = job.tool ?? "";
  if (!TABLES.has(table)) return answer(422, { error: `there is no table ${table}` });
  const mine = () => db.from(table).update({ start_id: "" }).eq("id", job.job_id).eq("start_id", id);
  const taken = got(
    await db.from(table).update({ start_id: id, task_id: null }).eq("id", job.job_id)
      .neq("start_id", id).not("status", "in", ENDED).select("id"),
  );
  if (!taken?.length) return await again(table, job.job_id, id);

  const started = await run(job.payload ?? {}, job.account ?? "");
  if ("task" in started) {
    const { task } = started;
    const saved = await db.from(table).update({ task_id: task }).eq("id", job.job_id).eq("start_id", id).select("id");
    // It was cancelled meanwhile: gate stops the task, and knows whose callback comes.
    if (saved.data?.length === 0) return answer(410, { error: "the job is over", task_id: task });
    return answer(200, { task_id: task }); // also when the row could not be written: gate has to know
  }
  if ("failed" in started) return answer(422, { error: started.failed });
  if ("barred" in started) { // gate holds this tool's starts back and raises an alarm, instead of failing the whole line
    got(await mine());
    return answer(started.barred, { error: `the provider turns every call away: HTTP ${started.barred}` });
  }
  if ("unclear" in started) return answer(422, { error: "the provider did not answer" });
  got(await mine()); // nothing has started: another call may try
  return "refused" in started ? answer(200, { outcome: "refused" }) : answer(503, { error: "the provider is not there" });
}

async function again(table: string, jobId: string, id: string): Promise<Response> {
  const row = got(await db.from(table).select("start_id, task_id").eq("id", jobId).maybeSingle());
  if (row?.start_id !== id) return answer(410, { error: "there is no such row, or its job is over" });
  return answer(200, row.task_id ? { task_id: row.task_id } : { outcome: "starting" });
}
