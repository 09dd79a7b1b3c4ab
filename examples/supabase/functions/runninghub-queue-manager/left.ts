// Rows that were left behind: `pending` for long (their tool was cut off, or gate did not answer), or with a cancel that did not reach
// gate. Each call may find them. gate ends them and gives back their charges.

import { db, got } from "../_shared/rows.ts";
import { end, endUnadmitted } from "./end.ts";

const PENDING_S = 15 * 60; // longer than any upload
const PAUSE_MS = 60_000; // between two looks of one instance
const MOST = 20; // rows in one look
const NEVER_STARTED = "The job was not started in time.";
const CANCELLED = "cancelled by its user";

let lookedAt = 0;

/** Looks for such rows, at most once a minute. The caller does not wait; the platform keeps the instance until it is done. */
export function endRowsLeft(): void {
  if (Date.now() - lookedAt < PAUSE_MS) return;
  lookedAt = Date.now();
  const work = look().catch((error) => console.error("rows left:", error));
  // deno-lint-ignore no-explicit-any
  (globalThis as any).EdgeRuntime?.waitUntil(work);
}

async function look(): Promise<void> {
  const rows = got(await db.rpc("rows_left", { p_pending_seconds: PENDING_S, p_most: MOST })) ?? [];
  for (const { table_name, id, cancel_asked } of rows) {
    if (cancel_asked) await end(table_name, id, "cancelled", CANCELLED);
    else await endUnadmitted(table_name, id, "failed", NEVER_STARTED);
  }
}
