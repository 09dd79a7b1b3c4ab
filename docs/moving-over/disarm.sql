-- The old clean-up stops: both it and gate would end and pay back the same jobs. back.sql undoes it. It may be run again.

-- Its schedule, where there is one. `create extension pg_cron` is what makes the schema.
do $$
begin
  if to_regclass('cron.job') is not null then
    perform cron.alter_job(job_id := jobid, active := false) from cron.job
      where active and command ilike any (array['%cleanup_all_stale_ai_jobs%', '%runninghub-queue-manager%']);
  end if;
end
$$;

-- The function itself, where there is one: many call it. It stays as it is in a schema that no caller reaches.
create schema if not exists before_gate;
revoke all on schema before_gate from public;
do $$
begin
  if to_regprocedure('public.cleanup_all_stale_ai_jobs()') is null
    or to_regprocedure('before_gate.cleanup_all_stale_ai_jobs()') is not null
  then
    return;
  end if;
  alter function public.cleanup_all_stale_ai_jobs() set schema before_gate;

  create function public.cleanup_all_stale_ai_jobs()
  returns table (table_name text, cancelled_count integer, refunded_credits integer)
  language sql as 'select null::text, 0, 0 where false';
  comment on function public.cleanup_all_stale_ai_jobs() is 'gate ends what is stale; the former one is in the schema before_gate';
end
$$;
