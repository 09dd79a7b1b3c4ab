// Answers, as browsers of any origin may read them.

import { type Json, Unreached } from "./gate.ts";
import { parse } from "./json.ts";

const HEADERS = { "access-control-allow-origin": "*", "cache-control": "no-store" };
const ALLOWED_HEADERS = [ // every header that a supabase-js of today or of last year sends
  "authorization",
  "x-client-info",
  "apikey",
  "content-type",
  "content-profile",
  "accept-profile",
  "accept",
  "prefer",
  "range",
  "x-region",
  "x-supabase-api-version",
  "x-retry-count",
  "x-request-id",
  "traceparent",
  "tracestate",
  "baggage",
];
const PREFLIGHT = {
  ...HEADERS,
  "access-control-allow-methods": "POST, OPTIONS",
  "access-control-allow-headers": ALLOWED_HEADERS.join(", "),
  "access-control-max-age": "86400",
};

export function answer(status: number, body: Json, retryAfter: string | null = null): Response {
  return Response.json(body, { status, headers: { ...HEADERS, ...(retryAfter && { "retry-after": retryAfter }) } });
}

/** Serves POST, answers the preflight, and turns whatever is thrown into words that a front end can show. */
export function serve(handle: (request: Request) => Promise<Response>): void {
  Deno.serve(async (request) => {
    if (request.method === "OPTIONS") return new Response(null, { status: 204, headers: PREFLIGHT });
    if (request.method !== "POST") return answer(405, { error: "Only POST" });
    try {
      return await handle(request);
    } catch (error) {
      if (error instanceof Unreached) {
        return answer(
          503,
          { success: false, error: "The queue does not answer. Please try again.", code: "gate_unreachable" },
          "5",
        );
      }
      console.error(error);
      return answer(500, { success: false, error: "Something went wrong. Please try again." });
    }
  });
}

/** What the body says. Null when it is no JSON object. */
export function read(text: string): Json | null {
  try {
    const body = text.trim() ? parse(text) : {};
    return body && typeof body === "object" && !Array.isArray(body) ? body : null;
  } catch {
    return null;
  }
}
