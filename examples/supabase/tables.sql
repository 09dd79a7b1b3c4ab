-- What the functions beside this file expect of the owner's database. Names and columns are an example: yours may have more.

create table user_credits (
  user_id uuid primary key,
  balance integer not null check (balance >= 0)
);

create table upscaler_jobs (
  id uuid primary key,
  user_id uuid not null,
  session_id text,
  status text not null default 'pending'
    check (status in ('pending', 'queued', 'starting', 'running', 'completed', 'failed', 'cancelled')),
  position integer,
  task_id text,
  output_url text,
  late_output_url text,                            -- of a success that came after gate had ended the job
  error_message text,
  job_payload jsonb,                               -- what the provider is asked: webappId, nodeInfoList
  user_credit_cost integer not null default 0 check (user_credit_cost >= 0),
  credits_charged boolean not null default false,
  credits_refunded boolean not null default false,
  refunded_credits integer not null default 0,
  rh_cost integer,                                 -- the provider's coins
  waited_in_queue boolean not null default false,
  queue_wait_seconds integer not null default 0,
  started_at timestamptz,
  completed_at timestamptz,
  cancel_asked_at timestamptz,                     -- when its user asked to cancel it
  start_id text not null default '',               -- for which start call a task was started
  gate_at timestamptz not null default 'epoch',    -- when that was so which gate told last
  created_at timestamptz not null default now()
);
create table pose_changer_jobs (like upscaler_jobs including all);
create table veste_ai_jobs (like upscaler_jobs including all);
create table video_upscaler_jobs (like upscaler_jobs including all);
create table arcano_cloner_jobs (like upscaler_jobs including all);
create table character_generator_jobs (like upscaler_jobs including all);
create table flyer_maker_jobs (like upscaler_jobs including all);
create table bg_remover_jobs (like upscaler_jobs including all);
create table image_generator_jobs (like upscaler_jobs including all);
create table video_generator_jobs (like upscaler_jobs including all);
create table movieled_maker_jobs (like upscaler_jobs including all);

-- Every table of jobs, and no other: the functions below touch nothing that does not stand here.
create function gate_tables() returns text[] language sql immutable as $$
  select array[
    'upscaler_jobs', 'pose_changer_jobs', 'veste_ai_jobs', 'video_upscaler_jobs',
    'arcano_cloner_jobs', 'character_generator_jobs', 'flyer_maker_jobs', 'bg_remover_jobs',
    'image_generator_jobs', 'video_generator_jobs', 'movieled_maker_jobs'
  ]
$$;

create function consume_upscaler_credits(_user_id uuid, _amount integer, _description text) returns boolean
language sql as $$
  with paid as (
    update user_credits set balance = balance - _amount where user_id = _user_id and balance >= _amount returning 1
  )
  select exists (select from paid)
$$;

create function refund_upscaler_credits(_user_id uuid, _amount integer, _description text) returns void
language sql as $$
  insert into user_credits as c values (_user_id, _amount)
  on conflict (user_id) do update set balance = c.balance + excluded.balance
$$;

-- For GATE_REFUND_SQL: pays back, and writes it into the row in the same transaction.
create function gate_refund(p_user text, p_amount integer, p_description text, p_job_id text) returns void
language plpgsql as $$
declare
  of_table text;
begin
  foreach of_table in array gate_tables() loop
    execute format('update %I set credits_refunded = true where id::text = $1', of_table) using p_job_id;
  end loop;
  perform refund_upscaler_credits(p_user::uuid, p_amount, p_description);
end
$$;

-- Rows that were left behind: `pending` for longer than p_pending_seconds, or with a cancel that gate has not carried out for 20 s. The
-- function ends them through gate, p_most at a time.
create function rows_left(p_pending_seconds integer, p_most integer)
returns table (table_name text, id uuid, cancel_asked boolean)
language plpgsql as $$
declare
  of_table text;
  found bigint := 0;
  more bigint;
begin
  foreach of_table in array gate_tables() loop
    return query execute format(
      'select %L::text, id, cancel_asked_at is not null from %I
       where status = ''pending'' and created_at < now() - make_interval(secs => $1)
         or cancel_asked_at < now() - interval ''20 seconds'' and status not in (''completed'', ''failed'', ''cancelled'')
       order by created_at limit $2', of_table, of_table
    ) using p_pending_seconds, p_most - found;
    get diagnostics more = row_count;
    found := found + more;
    exit when found >= p_most;
  end loop;
end
$$;

-- Of those who wait, by [{table_name, id, position}].
create function set_queue_positions(p_places jsonb) returns void
language plpgsql as $$
declare
  of_table text;
begin
  -- One call at a time: two that lock the same rows in another order would wait for each other, and Postgres would end one of them.
  perform pg_advisory_xact_lock(hashtext('set_queue_positions'));
  for of_table in select distinct place ->> 'table_name' from jsonb_array_elements(p_places) as place loop
    execute format(
      'update %I as job set position = (place ->> ''position'')::integer from jsonb_array_elements($1) as place
       where place ->> ''table_name'' = $2 and job.id = (place ->> ''id'')::uuid and job.status = ''queued''
         and job.position is distinct from (place ->> ''position'')::integer', of_table
    ) using p_places, of_table;
  end loop;
end
$$;

-- For GATE_JOB_SQL: whose job it is, what was charged, its browser tab, and what the provider is asked. `credits` is null while the row
-- has no price, so that the caller's counts. Nothing is charged where the job is over or the charge went back.
create function gate_job(
  p_table_name text, p_job_id text,
  out "user" uuid, out credits integer, out charged boolean, out session text, out payload jsonb
) language plpgsql as $$
begin
  execute format(
    'select user_id,
       case when is_over then 0 when user_credit_cost = 0 and not credits_charged then null else user_credit_cost end,
       credits_charged and not is_over, session_id, job_payload
     from (select *, credits_refunded or status in (''completed'', ''failed'', ''cancelled'') as is_over from %I) as job
     where id::text = $1', p_table_name
  ) into "user", credits, charged, session, payload using p_job_id;
end
$$;

-- Browsers see their own rows and change none; the functions come with the service role, which row security does not bind.
-- Everybody may execute a new function, unless it is said otherwise.
do $$
declare
  of_table text;
begin
  foreach of_table in array gate_tables() loop
    execute format('alter table %I enable row level security', of_table);
    execute format('create policy own on %I for select using (auth.uid() = user_id)', of_table);
  end loop;
end
$$;
alter table user_credits enable row level security;
create policy own on user_credits for select using (auth.uid() = user_id);
revoke execute on function
    gate_tables, consume_upscaler_credits, refund_upscaler_credits, gate_job, gate_refund, rows_left, set_queue_positions
  from public, anon, authenticated;
grant execute on function
    gate_tables, consume_upscaler_credits, refund_upscaler_credits, gate_job, gate_refund, rows_left, set_queue_positions
  to service_role;
