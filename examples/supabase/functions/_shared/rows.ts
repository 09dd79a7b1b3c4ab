// The rows of jobs that browsers watch. Whoever comes here may write to every table: none but these is ever named.

import { createClient } from "npm:@supabase/supabase-js@2.119.1";
import { need } from "./gate.ts";

export const TABLES = new Set([
  "upscaler_jobs",
  "pose_changer_jobs",
  "veste_ai_jobs",
  "video_upscaler_jobs",
  "arcano_cloner_jobs",
  "character_generator_jobs",
  "flyer_maker_jobs",
  "bg_remover_jobs",
  "image_generator_jobs",
  "video_generator_jobs",
  "movieled_maker_jobs",
]);

export const db = createClient(need("SUPABASE_URL"), need("SUPABASE_SERVICE_ROLE_KEY"), {
  auth: { persistSession: false, autoRefreshToken: false },
});

/** The data of an answer of supabase-js, which does not throw by itself. */
export function got<T>(answered: { data: T; error: { message: string } | null }): T {
  if (answered.error) throw new Error(answered.error.message);
  return answered.data;
}
