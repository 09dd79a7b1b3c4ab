// A tool, as it calls: it charges its user, inserts the job's row, and asks the queue manager. It never starts the job itself.

import { need } from "../_shared/gate.ts";
import { answer, read, serve } from "../_shared/http.ts";
import { db, got } from "../_shared/rows.ts";

const TABLE = "upscaler_jobs";
const PRICE = 10;
const WEBAPP = need("UPSCALER_WEBAPP_ID");

serve(async (request) => {
  const token = request.headers.get("authorization")?.replace(/^Bearer /i, "") ?? "";
  const { data: { user } } = await db.auth.getUser(token); // never from the body: anyone could name anyone
  if (!user) return answer(401, { success: false, error: "Please sign in" });
  const asked = read(await request.text());
  if (typeof asked?.imageUrl !== "string") return answer(400, { success: false, error: "Missing imageUrl" });

  const charge = { _user_id: user.id, _amount: PRICE, _description: "Upscaler Arcano" };
  if (!got(await db.rpc("consume_upscaler_credits", charge))) return answer(402, { success: false, error: "Not enough credits" });
  const jobId = crypto.randomUUID();
  const payload = { webappId: WEBAPP, nodeInfoList: [{ nodeId: "9", fieldName: "image", fieldValue: asked.imageUrl }] };
  const row = {
    id: jobId,
    user_id: user.id,
    session_id: asked.sessionId,
    status: "pending",
    user_credit_cost: PRICE,
    credits_charged: true,
    job_payload: payload,
  };
  const { error } = await db.from(TABLE).insert(row);
  if (error) {
    got(await db.rpc("refund_upscaler_credits", charge));
    throw new Error(error.message);
  }

  const said = await db.functions.invoke("runninghub-queue-manager/run-or-queue", {
    body: {
      table: TABLE,
      jobId,
      userId: user.id,
      creditCost: PRICE,
      sessionId: asked.sessionId,
      job_payload: payload,
    },
  });
  if (!said.response) throw said.error; // the row stays pending: asked again with its id, the queue manager takes it up
  const body = said.error ? await said.response.json() : said.data;
  return answer(said.response.status, { ...body, jobId });
});
