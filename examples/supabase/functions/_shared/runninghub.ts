// RunningHub: starts a task. gate asks about it and stops it. It answers 200 to nearly everything. The meaning is in `code`, or in v2's
// `errorCode`.

import { type Json, need } from "./gate.ts";
import { parse } from "./json.ts";

const URL_ = need("RUNNINGHUB_URL");
const KEY = need("RUNNINGHUB_API_KEY");
const START_WAIT_MS = 120_000; // a start may take a minute; gate gives the start call 150 s
const CALLBACK = `${need("SUPABASE_URL")}/functions/v1/runninghub-webhook?token=${encodeURIComponent(need("RUNNINGHUB_TOKEN"))}`;
const STARTED = new Set([0, 804, 813]); // SUCCESS, APIKEY_TASK_IS_RUNNING, APIKEY_TASK_IS_QUEUED
const BUSY = new Set([415, 421, 1003, 1011, 1520]); // no instance free, queue full, too many requests
const BUSY_HTTP = new Set([429, 500, 501, 502, 503, 504]);
const BARRED_HTTP = new Set([401, 403, 404]); // a wrong key or address: every job of this tool would fail in the same way

/**
 * `refused`: busy, try later. `away`: no connection, so no task has started. `unclear`: it was asked and gave no readable answer, so
 * a task may have started. `barred`: the HTTP status with which the provider turns every call away.
 */
export type Started =
  | { task: string }
  | { refused: true }
  | { failed: string }
  | { away: true }
  | { unclear: true }
  | { barred: number };

interface Answer {
  status: number;
  body: Json | null; // null when it is no JSON object
}

/** Starts a task on an account; `account` is its name in gate.toml, empty where gate names none. */
export async function run(payload: Json, account: string): Promise<Started> {
  const { webappId, nodeInfoList, ...more } = payload;
  let said: Answer;
  try {
    said = await call("ai-app/run", { ...more, webappId, nodeInfoList, webhookUrl: CALLBACK, apiKey: keyOf(account) });
  } catch (error) {
    const why = `${error} ${(error as Error).cause}`; // Deno says it in the one or the other
    return why.includes("client error (Connect)") ? { away: true } : { unclear: true };
  }
  return meaning(said);
}

function meaning({ status, body }: Answer): Started {
  const codes = [body?.code, body?.errorCode].filter((code) => code !== undefined && code !== null).map(Number);
  if (BUSY_HTTP.has(status) || codes.some((code) => BUSY.has(code))) return { refused: true };
  if (BARRED_HTTP.has(status)) return { barred: status };
  if (status < 300 && body === null) return { unclear: true };
  const task = (body?.data as Json | null | undefined)?.taskId ?? body?.taskId;
  if (status < 300 && task && codes.every((code) => STARTED.has(code))) return { task: String(task) };
  const words = body?.msg || body?.errorMessage || body?.message || "the provider would not start it";
  return { failed: `${words} (code ${codes.find((code) => code !== 0) ?? `HTTP ${status}`})` };
}

/** The key of an account of gate.toml: the secret with the account's name at its end, or the one of all accounts. */
function keyOf(account: string): string {
  const name = account.toUpperCase().replace(/[^A-Z0-9]/g, "_");
  return (name && Deno.env.get(`RUNNINGHUB_API_KEY_${name}`)) || KEY;
}

async function call(verb: string, body: Json): Promise<Answer> {
  const answer = await fetch(`${URL_}/task/openapi/${verb}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(START_WAIT_MS),
  });
  const text = await answer.text();
  try {
    const said = parse(text);
    return { status: answer.status, body: said && typeof said === "object" && !Array.isArray(said) ? said : null };
  } catch {
    return { status: answer.status, body: null };
  }
}
