-- What uploads were answered is forgotten when nobody can be repeating them any more.
create index upload_requests_oldest on upload_requests (answered_at);
create policy workers_see_requests on upload_requests for select using (current_setting('app.tenant', true) = '*');
create policy workers_forget_requests on upload_requests for delete using (current_setting('app.tenant', true) = '*');
