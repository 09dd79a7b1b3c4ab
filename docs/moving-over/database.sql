-- What gate and the replacement function expect of a database that the old queue manager has worked in. It changes nothing that
-- works today, and may be run again. The role `gate` has to exist (moving-over.md, step 2).
--
-- Expected of each table: id, user_id, session_id, status, position, task_id, output_url, error_message, created_at,
-- user_credit_cost, credits_charged, credits_refunded; job_payload and webapp_id are read where they exist.
-- Of the money: refund_upscaler_credits(_user_id, _amount, _description).

-- Every table of jobs, and no other: the functions below touch nothing that does not stand here. A table that you do not have is left out.
create or replace function gate_tables() returns text[] language sql stable set search_path = public as $$
  select array(
    select name from unnest(array[
      'upscaler_jobs', 'pose_changer_jobs', 'veste_ai_jobs', 'video_upscaler_jobs',
      'arcano_cloner_jobs', 'character_generator_jobs', 'flyer_maker_jobs', 'bg_remover_jobs',
      'image_generator_jobs', 'video_generator_jobs', 'movieled_maker_jobs'
    ]) with ordinality as listed (name, place)
    where to_regclass('public.' || name) is not null order by place)
$$;

do $$
declare
  of_table text;
begin
  foreach of_table in array gate_tables() loop
    execute format(
      'alter table %I
         add column if not exists start_id text not null default '''',
         add column if not exists gate_at timestamptz not null default ''epoch'',
         add column if not exists refunded_credits integer not null default 0,
         add column if not exists late_output_url text,
         add column if not exists cancel_asked_at timestamptz,
         add column if not exists started_at timestamptz,
         add column if not exists completed_at timestamptz,
         add column if not exists rh_cost integer,
         add column if not exists waited_in_queue boolean default false,
         add column if not exists queue_wait_seconds integer', of_table);
  end loop;
end
$$;

-- GATE_JOB_SQL: whose job it is, what was charged for it, its browser tab, and what the provider is asked. All null where there is no
-- such row. `credits` is null while the row has no price (null; or 0, and nothing was charged), so that the caller's counts. Nothing counts as charged where the job is over or
-- its charge went back.
drop function if exists gate_job(text, text);  -- an earlier one answered fewer columns
create function gate_job(
  p_table_name text, p_job_id text,
  out "user" text, out credits integer, out charged boolean, out session text, out payload jsonb
) language plpgsql security definer set search_path = public as $$
begin
  if not p_table_name = any (gate_tables()) then
    raise exception '% is no table of jobs', p_table_name;
  end if;
  execute format(
    'select user_id::text,
       case when is_over then 0
            when user_credit_cost = 0 and credits_charged is not true then null
            else user_credit_cost end,
       credits_charged is true and not is_over,
       session_id::text,
       case when jsonb_typeof(asks) = ''object'' then nullif(app || asks, ''{}'') end
     from (
       select *, credits_refunded is true or status in (''completed'', ''failed'', ''cancelled'') as is_over,
         coalesce(nullif(to_jsonb(one) -> ''job_payload'', ''null''), ''{}'') as asks,
         jsonb_strip_nulls(jsonb_build_object(''webappId'', to_jsonb(one) -> ''webapp_id'')) as app
       from %I as one where id::text = $1
     ) as job', p_table_name
  ) into "user", credits, charged, session, payload using p_job_id;
end
$$;

-- One refund, and never a second: the row says whether its charge went back, and the old functions look there too.
create or replace function pay_back_once(p_table_name text, p_job_id text, p_user text, p_amount integer, p_description text)
returns boolean
language plpgsql security definer set search_path = public as $$
declare
  mine boolean;
  told jsonb;
begin
  execute format(
    'update %I set credits_refunded = true where id::text = $1 and credits_refunded is not true returning true', p_table_name
  ) into mine using p_job_id;
  if mine is null then
    return false;
  end if;
  select to_jsonb(answer) into told from refund_upscaler_credits(p_user::uuid, p_amount, p_description) as answer;
  if told ->> 'success' = 'false' then  -- some say so instead of raising
    raise exception 'refund_upscaler_credits: %', told;
  end if;
  return true;
end
$$;

-- GATE_REFUND_SQL. What it raises gate shows as owed, and asks again.
create or replace function gate_refund(p_user text, p_amount integer, p_description text, p_job_id text) returns void
language plpgsql security definer set search_path = public as $$
declare
  of_table text;
  found_it boolean;
begin
  foreach of_table in array gate_tables() loop
    execute format('select true from %I where id::text = $1', of_table) into found_it using p_job_id;
    if found_it then
      perform pay_back_once(of_table, p_job_id, p_user, p_amount, p_description);
      return;
    end if;
  end loop;
  raise exception 'there is no row of job %', p_job_id;
end
$$;

-- For the replacement function: rows that were left behind. Either `pending` for longer than p_pending_seconds, or with a cancel that gate
-- has not carried out for 20 s. The function ends them through gate, p_most at a time.
create or replace function rows_left(p_pending_seconds integer, p_most integer)
returns table (table_name text, id uuid, cancel_asked boolean)
language plpgsql security definer set search_path = public as $$
declare
  of_table text;
  found bigint := 0;
  more bigint;
begin
  foreach of_table in array gate_tables() loop
    return query execute format(
      'select %L::text, job.id::uuid, job.cancel_asked_at is not null from %I as job
       where job.status = ''pending'' and job.created_at < now() - make_interval(secs => $1)
         or job.cancel_asked_at < now() - interval ''20 seconds'' and job.status not in (''completed'', ''failed'', ''cancelled'')
       order by job.created_at limit $2', of_table, of_table
    ) using p_pending_seconds, p_most - found;
    get diagnostics more = row_count;
    found := found + more;
    exit when found >= p_most;
  end loop;
end
$$;

-- For people: the rows of all tables at once, as moving-over.md counts them.
create or replace function gate_rows()
returns table (table_name text, id uuid, status text, session_id text, created_at timestamptz, credits_refunded boolean)
language plpgsql stable security definer set search_path = public as $$
declare
  of_table text;
begin
  foreach of_table in array gate_tables() loop
    return query execute format(
      'select %L::text, job.id::uuid, job.status::text, job.session_id::text, job.created_at, job.credits_refunded is true
       from %I as job', of_table, of_table);
  end loop;
end
$$;

-- For the replacement function: the places of those who wait, by [{table_name, id, position}].
create or replace function set_queue_positions(p_places jsonb) returns void
language plpgsql security definer set search_path = public as $$
declare
  of_table text;
begin
  -- One call at a time: two that lock the same rows in another order would wait for each other, and Postgres would end one of them.
  perform pg_advisory_xact_lock(hashtext('set_queue_positions'));
  foreach of_table in array gate_tables() loop
    execute format(
      'update %I as job set position = (place ->> ''position'')::integer from jsonb_array_elements($1) as place
       where place ->> ''table_name'' = $2 and job.id = (place ->> ''id'')::uuid and job.status = ''queued''
         and job.position is distinct from (place ->> ''position'')::integer', of_table
    ) using p_places, of_table;
  end loop;
end
$$;

drop function if exists give_back_charge(text, uuid, text);  -- an earlier version paid by itself: now every charge goes back through gate

-- Everybody may execute a new function, unless it is said otherwise.
revoke execute on function gate_tables, gate_job, pay_back_once, gate_refund, rows_left, gate_rows, set_queue_positions
  from public, anon, authenticated;
grant execute on function rows_left, set_queue_positions to service_role;
grant execute on function gate_job, gate_refund to gate;
