// gate, as these functions call it: with a key that stays on the server.

import { parse } from "./json.ts";

const URL_ = need("GATE_URL");
const KEY = need("GATE_KEY");
const WAIT_MS = 55_000; // gate answers within 25 s, also while a start call is under way

export type Json = Record<string, unknown>;

export interface Said {
  status: number;
  body: Json;
  retryAfter: string | null;
}

/** gate gave no answer. Whether it heard the question is not known. */
export class Unreached extends Error {}

/** Asks gate, again after each of `pauses` (ms) when there was no answer: every question may be asked twice. Throws Unreached. */
export async function ask(path: string, text: string, pauses: number[]): Promise<Said> {
  return await called({ method: "POST", body: text }, path, pauses);
}

export async function look(path: string): Promise<Said> {
  return await called({ method: "GET" }, path, []);
}

async function called(how: RequestInit, path: string, pauses: number[]): Promise<Said> {
  const headers = { authorization: `Bearer ${KEY}`, "content-type": "application/json" };
  const signal = AbortSignal.timeout(WAIT_MS);
  for (const pause of [...pauses, null]) {
    try {
      const answer = await fetch(URL_ + path, { ...how, headers, signal, redirect: "error" });
      const body = parse(await answer.text()); // what is not JSON was said by something in between
      return { status: answer.status, body, retryAfter: answer.headers.get("retry-after") };
    } catch (error) {
      console.error("gate does not answer:", (error as Error).name); // no more: its message may name the address and the token
      if (pause === null || signal.aborted) break;
      await new Promise((go) => setTimeout(go, pause));
    }
  }
  throw new Unreached("gate does not answer");
}

export function need(name: string): string {
  const value = Deno.env.get(name);
  if (!value) throw new Error(`${name} is not set`);
  return value;
}
