// RunningHub: starts a task, cancels one. It answers 200 to everything; what it means stands in `code`.

import { type Json, need } from "./gate.ts";

const URL_ = need("RUNNINGHUB_URL");
const KEY = need("RUNNINGHUB_API_KEY");
const WAIT_MS = 20_000; // less than the 25 s after which gate calls again
const CALLBACK = `${need("SUPABASE_URL")}/functions/v1/runninghub-webhook?token=${encodeURIComponent(need("RUNNINGHUB_TOKEN"))}`;
const FULL = new Set([415, 421]); // TASK_INSTANCE_MAXED, TASK_QUEUE_MAXED

/** `away`: it was not there to be asked. `unclear`: it was asked and did not answer, so that a task may have started. */
export type Started = { task: string } | { refused: true } | { failed: string } | { away: true } | { unclear: true };

export async function run(payload: Json): Promise<Started> {
  const { webappId, nodeInfoList, ...more } = payload;
  let said: { code?: number; msg?: string; data?: { taskId?: string } };
  try {
    said = await call("ai-app/run", { ...more, webappId, nodeInfoList, webhookUrl: CALLBACK });
  } catch (error) {
    const why = `${error} ${(error as Error).cause}`; // Deno says it in the one or the other
    return why.includes("client error (Connect)") ? { away: true } : { unclear: true };
  }
  if (said.code === 0 && said.data?.taskId) return { task: String(said.data.taskId) };
  if (FULL.has(Number(said.code))) return { refused: true };
  return { failed: `${said.msg ?? "the provider would not start it"} (code ${said.code})` };
}

/** Throws when the provider does not answer. A task that is over already is none to cancel. */
export async function cancel(taskId: string): Promise<void> {
  const said = await call("cancel", { taskId });
  if (said.code !== 0) console.error(`task ${taskId} is not cancelled: code ${said.code}`);
}

async function call(verb: string, body: Json) {
  const answer = await fetch(`${URL_}/task/openapi/${verb}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, apiKey: KEY }),
    signal: AbortSignal.timeout(WAIT_MS),
  });
  return await answer.json();
}
