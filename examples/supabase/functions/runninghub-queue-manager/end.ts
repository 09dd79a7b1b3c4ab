// Ends a job through gate, which gives its charge back once, whatever else ends or admits the job at the same moment.

import { ask, type Json } from "../_shared/gate.ts";
import { db } from "../_shared/rows.ts";

const FINISH = "/functions/v1/runninghub-queue-manager/finish";
const PAUSES_MS = [500, 1_500];

/**
 * Ends a job that gate has not admitted, and says so in its row. One that gate has admitted meanwhile goes on.
 *
 * @returns what went back, in credits; 0 also where gate does not answer. Such a row stays `pending`, and is found again.
 */
export async function endUnadmitted(table: string, jobId: string, status: string, error: string): Promise<number> {
  const said = await finish({ table, jobId, status, errorMessage: error, notAdmitted: true });
  if (said === null || said.reason === "admitted") return 0;
  const amount = Number(said.refundedAmount ?? 0);
  const row = { status, position: null, start_id: "", error_message: error, ...(amount > 0 && { refunded_credits: amount }) };
  const { error: unwritten } = await db.from(table).update(row).eq("id", jobId).eq("status", "pending");
  if (unwritten) console.error(`the row of ${jobId} waits for its event: ${unwritten.message}`);
  return amount;
}

/** Ends a job, whether it waits or runs; its row follows by gate's event. */
export async function end(table: string, jobId: string, status: string, error: string): Promise<void> {
  await finish({ table, jobId, status, errorMessage: error });
}

async function finish(body: Json): Promise<Json | null> {
  try {
    const said = await ask(FINISH, JSON.stringify(body), PAUSES_MS);
    if (said.status === 200) return said.body;
    console.error(`gate does not end ${body.jobId}: ${said.status} ${said.body.error}`);
  } catch (error) {
    console.error(`gate does not end ${body.jobId}: ${(error as Error).message}`);
  }
  return null;
}
