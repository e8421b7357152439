"""Against servers that others wrote: Triton, MLServer, MLflow, LiteLLM, and infinity with the real all-MiniLM-L6-v2.

scripts/servers installs and starts them. The table names the test of each behaviour that was observed:

| behaviour | test |
|---|---|
| batch too large: Triton 400 | test_triton: a_batch_that_is_too_large |
| batch too large: infinity 422, repeats all inputs | test_embeddings: more_texts_than_the_server_takes |
| wrong width: Triton 400, MLServer 500 | test_mistakes: a_wrong_width, without_metadata |
| wrong dtype: Triton 400 | test_mistakes: a_wrong_dtype, without_metadata |
| token ids: infinity 422 | test_mistakes: rows_that_are_no_texts |
| data that does not fit its shape, bad JSON: Triton 500 | test_triton: a_request_that_cannot_be_read |
| unknown model: Triton, MLServer 404 | test_mistakes: a_mistyped_model |
| unknown model: infinity 200 | test_embeddings: the_name_of_the_model |
| overload: Triton 503 | test_triton: a_queue_of_two |
| overload: LiteLLM passes a 429 on | test_litellm: through_its_429s |
| a wrong key: LiteLLM 400 "No connected db" | test_litellm: a_wrong_key_or_model |
| a bad row: MLflow 400 for the whole request | test_mlflow: a_row_that_the_model_refuses |
| overload: MLServer queues | test_mlserver: one_bad_row (concurrency 20) |
| overload: infinity 429 without Retry-After | test_embeddings: every_429 |
| NaN in JSON: Triton bare, MLServer null | test_triton: a_nan; test_mlserver: a_null |
| 1. a 5xx need not be transient | test_triton: a_500_for_one_row |
| 2. one bad request fails innocent ones | test_mlserver: one_bad_row |
| 3. Inference-Header-Content-Length marks a binary answer | test_triton: every comparison in binary |
| 4. error bodies of any kind are quoted | test_triton: a_500_for_one_row; test_mistakes |
| 5. a server may answer JSON, or take nothing else | test_mlserver: no_raw_bytes |
| 6. infinity's usage and model mean nothing | test_embeddings: the_name_of_the_model |
| 7. embeddings depend on the batch in the last bits | test_embeddings: those_of_the_model_called_directly |
| 8. base64 may be ignored: the response decides | test_embeddings: those_of_the_model (float, base64) |
| 9. no integer id, no empty batch | test_triton: no_rows_make_no_request |
| 10. digits are images of 0 to 1; one command starts a server | test_triton: digits_in_chunks_of_500; conftest |
"""
