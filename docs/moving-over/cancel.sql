-- Browsers call user_cancel_ai_job in the database, not in a function that could be replaced. From here on it asks gate, which ends
-- the job, pays back, and has the row written; also a job that was not admitted yet. The request goes out when the call has committed.
-- The row keeps in cancel_asked_at that it was asked: where the request is lost, the replacement function finds the row later and asks
-- again. back.sql undoes it.

create extension if not exists pg_net;
create schema if not exists before_gate;
revoke all on schema before_gate from public;
alter function public.user_cancel_ai_job(text, uuid) set schema before_gate;

create function public.user_cancel_ai_job(p_table_name text, p_job_id uuid)
returns table (success boolean, refunded_amount integer, error_message text)
language plpgsql security definer set search_path = public as $$
declare
  whose text;
  price integer;
  over boolean;
begin
  if p_table_name = any (gate_tables()) then
    execute format(
      'select user_id::text, case when credits_charged and credits_refunded is not true then user_credit_cost else 0 end,
              status in (''completed'', ''failed'', ''cancelled'')
       from %I where id = $1', p_table_name
    ) into whose, price, over using p_job_id;
  end if;
  if whose is null or whose is distinct from auth.uid()::text then
    return query select false, 0, 'there is no such job of yours';
  elsif over then
    return query select false, 0, 'the job is over';
  else
    execute format('update %I set cancel_asked_at = now() where id = $1', p_table_name) using p_job_id;
    perform net.http_post(
      url := (select decrypted_secret from vault.decrypted_secrets where name = 'gate_url') || '/rest/v1/rpc/user_cancel_ai_job',
      body := jsonb_build_object('p_table_name', p_table_name, 'p_job_id', p_job_id),
      headers := jsonb_build_object(
        'content-type', 'application/json',
        'authorization', 'Bearer ' || (select decrypted_secret from vault.decrypted_secrets where name = 'gate_key')),
      timeout_milliseconds := 5000);
    return query select true, price, null::text;
  end if;
end
$$;
revoke execute on function public.user_cancel_ai_job(text, uuid) from public, anon;
grant execute on function public.user_cancel_ai_job(text, uuid) to authenticated;
