-- What gate and the replacement function expect of a database that the old queue manager has worked in. It changes nothing that
-- works today, and may be run again. The role `gate` has to exist (moving-over.md, step 2).
--
-- Expected of each table: id, user_id, session_id, status, position, task_id, output_url, error_message, created_at,
-- user_credit_cost, credits_charged, credits_refunded. Of the money: refund_upscaler_credits(_user_id, _amount, _description).

-- Every table of jobs, and no other: the functions below touch nothing that does not stand here.
create or replace function gate_tables() returns text[] language sql immutable as $$
  select array['upscaler_jobs', 'pose_changer_jobs', 'veste_ai_jobs', 'video_upscaler_jobs']
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
         add column if not exists refunded_credits integer not null default 0', of_table);
  end loop;
end
$$;

-- GATE_JOB_SQL: whose job it is, and what was charged for it. All null where there is no such row.
create or replace function gate_job(p_table_name text, p_job_id text, out "user" text, out credits integer, out charged boolean)
language plpgsql security definer set search_path = public as $$
begin
  if not p_table_name = any (gate_tables()) then
    raise exception '% is no table of jobs', p_table_name;
  end if;
  execute format(
    'select user_id::text, coalesce(user_credit_cost, 0), credits_charged is true and credits_refunded is not true
     from %I where id::text = $1', p_table_name
  ) into "user", credits, charged using p_job_id;
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

-- For the replacement function: gate did not admit the job, its charge goes back. Answers what was paid back.
create or replace function give_back_charge(p_table_name text, p_job_id uuid, p_error text) returns integer
language plpgsql security definer set search_path = public as $$
declare
  whose text;
  charged integer;
begin
  if not p_table_name = any (gate_tables()) then
    raise exception '% is no table of jobs', p_table_name;
  end if;
  execute format(
    'update %I set status = ''failed'', error_message = $2
     where id = $1 and status = ''pending''
     returning user_id::text, case when credits_charged and credits_refunded is not true then user_credit_cost end', p_table_name
  ) into whose, charged using p_job_id, p_error;
  if charged > 0 and pay_back_once(p_table_name, p_job_id::text, whose, charged, 'not admitted') then
    execute format('update %I set refunded_credits = $2 where id = $1', p_table_name) using p_job_id, charged;
    return charged;
  end if;
  return 0;
end
$$;

-- For the replacement function: the places of those who wait, by [{table_name, id, position}].
create or replace function set_queue_positions(p_places jsonb) returns void
language plpgsql security definer set search_path = public as $$
declare
  of_table text;
begin
  foreach of_table in array gate_tables() loop
    execute format(
      'update %I as job set position = (place ->> ''position'')::integer from jsonb_array_elements($1) as place
       where place ->> ''table_name'' = $2 and job.id = (place ->> ''id'')::uuid and job.status = ''queued''', of_table
    ) using p_places, of_table;
  end loop;
end
$$;

-- Everybody may execute a new function, unless it is said otherwise.
revoke execute on function gate_tables, gate_job, pay_back_once, gate_refund, give_back_charge, set_queue_positions
  from public, anon, authenticated;
grant execute on function give_back_charge, set_queue_positions to service_role;
grant execute on function gate_job, gate_refund to gate;
