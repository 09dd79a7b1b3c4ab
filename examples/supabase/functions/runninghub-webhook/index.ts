// RunningHub says here how a task ended; gate is told, with the token that gate put to the proof. It may come once only, so that a
// gate that is just restarting is asked again. What comes twice changes nothing there.

import { ask } from "../_shared/gate.ts";
import { answer, serve } from "../_shared/http.ts";

const PAUSES_MS = [500, 1_000, 2_000, 4_000, 8_000];

serve(async (request) => {
  const said = await ask(`/functions/v1/runninghub-webhook${new URL(request.url).search}`, await request.text(), PAUSES_MS);
  return answer(said.status, said.body, said.retryAfter);
});
