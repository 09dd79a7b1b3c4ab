// What gate sends, and only gate: signed with the secret that gate.toml has too (Standard Webhooks, 5 minutes either way).

import { Webhook } from "npm:standardwebhooks@1.1.1";
import { need } from "../_shared/gate.ts";
import { answer } from "../_shared/http.ts";
import { parse } from "../_shared/json.ts";

export interface Job {
  job_id: string;
  pool: string;
  tool: string | null;
  payload: Record<string, unknown> | null;
  account?: string | null; // by its name in gate.toml, at which to start the task
  error: string | null;
  end_reason: string | null;
  enqueued_at: string;
  lease: { granted_at: string } | null;
  output: Record<string, unknown> | null;
  late_output?: Record<string, unknown> | null;
  refund: { amount: number } | null;
}

/** `id` is the same however often this is sent. */
export interface Message {
  id: string;
  type: string;
  timestamp: string;
  data: Job;
}

const SECRET = new Webhook(need("GATE_SECRET"));

export async function signed(request: Request, text: string, handle: (message: Message) => Promise<Response>): Promise<Response> {
  const headers = Object.fromEntries(request.headers);
  try {
    SECRET.verify(text, headers);
  } catch {
    return answer(401, { error: "The signature is missing, stale or wrong" });
  }
  return await handle({ ...parse(text), id: headers["webhook-id"] });
}
