-- The way back: the old functions as they were, with the rights they had, and their schedule.

do $$
begin
  if to_regprocedure('before_gate.user_cancel_ai_job(text, uuid)') is not null then
    drop function public.user_cancel_ai_job(text, uuid);
    alter function before_gate.user_cancel_ai_job(text, uuid) set schema public;
  end if;
  if to_regprocedure('before_gate.cleanup_all_stale_ai_jobs()') is not null then
    drop function public.cleanup_all_stale_ai_jobs();
    alter function before_gate.cleanup_all_stale_ai_jobs() set schema public;
  end if;
  if to_regclass('cron.job') is not null then
    perform cron.alter_job(job_id := jobid, active := true) from cron.job
      where not active and command ilike any (array['%cleanup_all_stale_ai_jobs%', '%runninghub-queue-manager%']);
  end if;
end
$$;
