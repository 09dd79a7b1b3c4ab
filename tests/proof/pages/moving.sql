-- What stands in for the owner's Supabase before gate comes: what the platform has (roles, auth, vault, pg_net, pg_cron, as far as the
-- guide uses them), and the tables and functions of an old queue manager.


do $$ begin
  if to_regrole('anon') is null then create role anon; end if;
  if to_regrole('authenticated') is null then create role authenticated; end if;
  if to_regrole('service_role') is null then create role service_role; end if;
end $$;
create schema auth;
create function auth.uid() returns uuid language sql stable as $$ select nullif(current_setting('test.user', true), '')::uuid $$;
grant usage on schema auth to authenticated;

create schema vault;
create table vault.decrypted_secrets (name text primary key, decrypted_secret text not null);
create function vault.create_secret(new_secret text, new_name text) returns void language sql as $$
  insert into vault.decrypted_secrets values (new_name, new_secret)
$$;

create schema net;
create table net.asked (id bigserial primary key, url text, body jsonb, headers jsonb);
create function net.http_post(
  url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{"Content-Type": "application/json"}',
  timeout_milliseconds int default 5000
) returns bigint language sql as $$ insert into net.asked (url, body, headers) values ($1, $2, $4) returning id $$;

create schema cron;
create table cron.job (jobid bigserial primary key, schedule text, command text, active boolean not null default true);
create function cron.alter_job(
  job_id bigint, schedule text default null, command text default null, database text default null, username text default null,
  active boolean default null
) returns void language sql as $$ update cron.job set active = $6 where jobid = $1 $$;
insert into cron.job (schedule, command) values
  ('*/5 * * * *', 'select public.cleanup_all_stale_ai_jobs()'), ('0 3 * * *', 'select 1');

create table upscaler_credits (user_id uuid primary key, balance integer not null);
create table upscaler_jobs (
  id uuid primary key default gen_random_uuid(), user_id uuid not null, session_id text, status text not null default 'pending',
  position integer default 0, task_id text, output_url text, error_message text, job_payload jsonb,
  user_credit_cost integer default 0, credits_charged boolean default false, credits_refunded boolean default false,
  created_at timestamptz default now(), completed_at timestamptz
);
create table pose_changer_jobs (like upscaler_jobs including all);
create table veste_ai_jobs (like upscaler_jobs including all);
create table video_upscaler_jobs (like upscaler_jobs including all);
create table flyer_maker_jobs (like upscaler_jobs including all);

create function refund_upscaler_credits(_user_id uuid, _amount integer, _description text default 'Refund')
returns table (success boolean, new_balance integer, error_message text) language plpgsql security definer as $$
begin
  update upscaler_credits set balance = balance + _amount where user_id = _user_id;
  if not found then
    return query select false, 0, 'no such user';
  else
    return query select true, balance, null::text from upscaler_credits where user_id = _user_id;
  end if;
end
$$;

create function cleanup_all_stale_ai_jobs() returns table (upscaler_cancelled integer) language plpgsql security definer as $$
declare
  job record;
begin
  upscaler_cancelled := 0;
  for job in select * from upscaler_jobs where status in ('running', 'queued', 'starting') loop
    update upscaler_jobs set status = 'failed' where id = job.id;
    if job.credits_charged and job.credits_refunded is not true then
      perform refund_upscaler_credits(job.user_id, job.user_credit_cost);
      update upscaler_jobs set credits_refunded = true where id = job.id;
    end if;
    upscaler_cancelled := upscaler_cancelled + 1;
  end loop;
  return next;
end
$$;

create function user_cancel_ai_job(p_table_name text, p_job_id uuid)
returns table (success boolean, refunded_amount integer, error_message text) language sql as $$
  select true, 0, 'the old one'
$$;
grant execute on function user_cancel_ai_job to authenticated;
