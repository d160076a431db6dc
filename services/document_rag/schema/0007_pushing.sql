-- A batch of pushed chunks is written in one round trip, and a text stands beside its vector.

-- Half a page: a text that would only fill what a page of two vectors leaves empty is neither compressed nor kept apart.
-- Above 2 kB, which any row with a vector of 1536 dimensions has, PostgreSQL does both to every text: a third of the time
-- that writing it takes, and a second look-up for reading it.
alter table pushed_chunks set (toast_tuple_target = 4080);
alter table chunks set (toast_tuple_target = 4080);

-- Whether a chunk is the same again, its content says: to hash each one costs more than to compare the few that come again.
-- Empty, it differs from every hash: replicas of the version before write on meanwhile, and lose nothing.
alter table pushed_chunks alter column fingerprint set default '';

-- Chunks are given in the order of their ids, so that two writers of the same ones wait for one another and never in a
-- circle. The collection is held in share until the end of the transaction, from before the first number is taken: it is
-- not deleted under the writer's hands. No row is the answer, and nothing is written, when it is gone.
-- A vector that the service made says nothing that its text and its model do not say; a model may make it anew otherwise.
create function push_chunks(
    p_tenant text, p_collection uuid, p_embedding_model text, p_ids text[], p_texts text[], p_metadata text[],
    p_embeddings public.halfvec[]
) returns table (created bigint, updated bigint) language plpgsql as $$
declare
    v_brought boolean;
begin
    perform set_config('app.tenant', p_tenant, true);
    select embedding_model <> '' into v_brought from collections
    where tenant_id = p_tenant and collection_id = p_collection and deleted_at is null for share;
    if not found then
        return;
    end if;
    return query with written as (
        insert into pushed_chunks as known (tenant_id, collection_id, embedding_model, chunk_id, body, metadata, embedding)
        select p_tenant, p_collection, p_embedding_model, chunk_id, body, metadata::jsonb, embedding
        from unnest(p_ids, p_texts, p_metadata, p_embeddings) as pushed (chunk_id, body, metadata, embedding)
        on conflict (tenant_id, collection_id, chunk_id) do update
        set body = excluded.body, metadata = excluded.metadata, embedding_model = excluded.embedding_model,
            embedding = excluded.embedding, fingerprint = default, number = default, updated_at = now()
        where (known.body, known.metadata, known.embedding_model)
              <> (excluded.body, excluded.metadata, excluded.embedding_model)
           or (v_brought and known.embedding <> excluded.embedding)
        returning xmax = 0 as is_new
    )
    select count(*) filter (where is_new), count(*) filter (where not is_new) from written;
end
$$;
