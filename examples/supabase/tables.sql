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
  error_message text,
  user_credit_cost integer not null default 0 check (user_credit_cost >= 0),
  refunded_credits integer not null default 0,
  start_id text not null default '',               -- for which start call a task was started
  gate_at timestamptz not null default 'epoch',    -- when that was so which gate told last
  created_at timestamptz not null default now()
);
create table pose_changer_jobs (like upscaler_jobs including all);
create table veste_ai_jobs (like upscaler_jobs including all);
create table video_upscaler_jobs (like upscaler_jobs including all);

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

-- gate did not admit the job: its charge goes back, once, in one transaction with the row. Only a row that no answer of gate has
-- touched is paid, and what it says was charged, not what a browser says. Answers what was paid back.
create function give_back_charge(p_table_name text, p_job_id uuid, p_error text) returns integer
language plpgsql as $$
declare
  whose uuid;
  charged integer;
begin
  execute format(
    'update %I set status = ''failed'', error_message = $2, refunded_credits = user_credit_cost
     where id = $1 and status = ''pending'' returning user_id, user_credit_cost', p_table_name
  ) into whose, charged using p_job_id, p_error;
  if charged > 0 then
    perform refund_upscaler_credits(whose, charged, 'not admitted');
  end if;
  return coalesce(charged, 0);
end
$$;

-- Of those who wait, by [{table_name, id, position}].
create function set_queue_positions(p_places jsonb) returns void
language plpgsql as $$
declare
  of_table text;
begin
  for of_table in select distinct place ->> 'table_name' from jsonb_array_elements(p_places) as place loop
    execute format(
      'update %I as job set position = (place ->> ''position'')::integer from jsonb_array_elements($1) as place
       where place ->> ''table_name'' = $2 and job.id = (place ->> ''id'')::uuid and job.status = ''queued''', of_table
    ) using p_places, of_table;
  end loop;
end
$$;

-- For GATE_JOB_SQL: whose job it is, and what was charged.
create function gate_job(p_table_name text, p_job_id text, out "user" uuid, out credits integer, out charged boolean)
language plpgsql as $$
begin
  execute format('select user_id, user_credit_cost, true from %I where id::text = $1', p_table_name)
    into "user", credits, charged using p_job_id;
end
$$;

-- Browsers see their own rows and change none; the functions come with the service role, which row security does not bind.
-- Everybody may execute a new function, unless it is said otherwise.
do $$
declare
  of_table text;
begin
  foreach of_table in array array['upscaler_jobs', 'pose_changer_jobs', 'veste_ai_jobs', 'video_upscaler_jobs'] loop
    execute format('alter table %I enable row level security', of_table);
    execute format('create policy own on %I for select using (auth.uid() = user_id)', of_table);
  end loop;
end
$$;
alter table user_credits enable row level security;
create policy own on user_credits for select using (auth.uid() = user_id);
revoke execute on function consume_upscaler_credits, refund_upscaler_credits, give_back_charge, set_queue_positions, gate_job
  from public, anon, authenticated;
grant execute on function consume_upscaler_credits, refund_upscaler_credits, give_back_charge, set_queue_positions, gate_job
  to service_role;
