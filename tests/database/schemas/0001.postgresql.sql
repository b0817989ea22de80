SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.datasets (
    id bigint NOT NULL,
    fingerprint text NOT NULL,
    source text NOT NULL,
    classes json NOT NULL,
    counts json NOT NULL,
    broken json NOT NULL
);
CREATE SEQUENCE public.datasets_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.datasets_id_seq OWNED BY public.datasets.id;
CREATE TABLE public.epochs (
    trial_id bigint NOT NULL,
    attempt bigint NOT NULL,
    epoch bigint NOT NULL,
    value double precision,
    metrics json NOT NULL,
    seconds double precision NOT NULL
);
CREATE TABLE public.models (
    id bigint NOT NULL,
    study_id bigint NOT NULL,
    trial bigint NOT NULL,
    uri text NOT NULL,
    sha256 text NOT NULL,
    bytes bigint NOT NULL,
    verified boolean NOT NULL,
    metrics json NOT NULL,
    created timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.models_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.models_id_seq OWNED BY public.models.id;
CREATE TABLE public.studies (
    id bigint NOT NULL,
    name text NOT NULL,
    dataset_id bigint NOT NULL,
    spec json NOT NULL,
    metric text NOT NULL,
    direction text NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    plugins json NOT NULL,
    versions json NOT NULL,
    seconds double precision NOT NULL,
    lease_owner text,
    lease_token bigint NOT NULL,
    lease_since double precision,
    lease_until double precision,
    last_write text NOT NULL,
    created timestamp with time zone NOT NULL,
    updated timestamp with time zone NOT NULL,
    CONSTRAINT ck_studies_direction CHECK ((direction = ANY (ARRAY['maximize'::text, 'minimize'::text]))),
    CONSTRAINT ck_studies_state CHECK ((state = ANY (ARRAY['RUNNING'::text, 'INTERRUPTED'::text, 'COMPLETE'::text, 'FAILED'::text])))
);
CREATE SEQUENCE public.studies_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.studies_id_seq OWNED BY public.studies.id;
CREATE TABLE public.tlsearch_alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.trials (
    id bigint NOT NULL,
    study_id bigint NOT NULL,
    number bigint NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    role text NOT NULL,
    confirms bigint,
    backbone text NOT NULL,
    strategy text NOT NULL,
    freeze_depth bigint,
    groups bigint,
    params json NOT NULL,
    value double precision,
    metrics json NOT NULL,
    seconds double precision NOT NULL,
    prefix_images bigint NOT NULL,
    suffix_images bigint NOT NULL,
    flops double precision NOT NULL,
    trainable_parameters bigint NOT NULL,
    total_parameters bigint NOT NULL,
    seed bigint NOT NULL,
    attempt bigint NOT NULL,
    cache text NOT NULL,
    node text NOT NULL,
    started timestamp with time zone NOT NULL,
    finished timestamp with time zone,
    artifact_uri text,
    artifact_sha256 text,
    artifact_bytes bigint,
    CONSTRAINT ck_trials_attempt CHECK ((attempt >= 1)),
    CONSTRAINT ck_trials_number CHECK ((number >= 0)),
    CONSTRAINT ck_trials_role CHECK ((role = ANY (ARRAY['search'::text, 'confirm'::text]))),
    CONSTRAINT ck_trials_state CHECK ((state = ANY (ARRAY['RUNNING'::text, 'COMPLETE'::text, 'PRUNED'::text, 'FAILED'::text, 'CANCELLED'::text])))
);
CREATE SEQUENCE public.trials_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trials_id_seq OWNED BY public.trials.id;
ALTER TABLE ONLY public.datasets ALTER COLUMN id SET DEFAULT nextval('public.datasets_id_seq'::regclass);
ALTER TABLE ONLY public.models ALTER COLUMN id SET DEFAULT nextval('public.models_id_seq'::regclass);
ALTER TABLE ONLY public.studies ALTER COLUMN id SET DEFAULT nextval('public.studies_id_seq'::regclass);
ALTER TABLE ONLY public.trials ALTER COLUMN id SET DEFAULT nextval('public.trials_id_seq'::regclass);
INSERT INTO public.datasets VALUES (1, 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'folder data/flowers', '["daisy", "tulip"]', '{"train": 70, "val": 15, "test": 15}', '["tulip/7.jpg: truncated"]');
INSERT INTO public.epochs VALUES (1, 1, 1, 0.5, '{"train_loss": 0.25}', 0.5);
INSERT INTO public.epochs VALUES (1, 1, 2, 0.75, '{"train_loss": 0.25}', 0.5);
INSERT INTO public.epochs VALUES (2, 1, 1, 0.5, '{"train_loss": 0.25}', 0.5);
INSERT INTO public.epochs VALUES (3, 1, 1, 0.5, '{"train_loss": 0.25}', 0.5);
INSERT INTO public.epochs VALUES (4, 1, 1, 1.25, '{"train_loss": 0.25}', 0.5);
INSERT INTO public.models VALUES (1, 1, 0, '/srv/a/model', 'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd', 99, true, '{"val": {"accuracy": 0.75}, "test": {"accuracy": 0.7}}', '2026-01-02 03:04:05+00');
INSERT INTO public.studies VALUES (1, 'flowers', 1, '{"study": "flowers", "budget": {"trials": 60}}', 'accuracy', 'maximize', 'COMPLETE', '', '[{"group": "tlsearch.strategies", "name": "fine_tune", "distribution": "tlsearch", "version": "0.1.0"}]', '{"torch": "2.14"}', 12.5, NULL, 1, NULL, NULL, '5f081fb5cacf4d0d8e7ad42b27048f6e', '2026-11-24 08:48:40.244583+00', '2026-11-24 08:48:40.464431+00');
INSERT INTO public.studies VALUES (2, 'birds', 1, '{"study": "birds", "budget": {"trials": 60}}', 'log_loss', 'minimize', 'RUNNING', '', '[{"group": "tlsearch.strategies", "name": "fine_tune", "distribution": "tlsearch", "version": "0.1.0"}]', '{"torch": "2.14"}', 0, 'bob@node7:7:2.00', 1, 1795510120.487574, 1795510120.587574, '27242c0a684c47a48ca643fd5ef29b48', '2026-11-24 08:48:40.277629+00', '2026-11-24 08:48:40.513385+00');
INSERT INTO public.tlsearch_alembic_version VALUES ('0001');
INSERT INTO public.trials VALUES (1, 1, 0, 'COMPLETE', 'all 4 epochs', 'search', NULL, 'timm/resnet18', 'fine_tune', 4, 10, '{"learning_rate": 0.001, "freeze_depth": 0.5, "augment": true, "optimizer": "adamw"}', 0.75, '{"accuracy": 0.75}', 2, 70, 280, 1000000000000, 1000, 11000000, 17, 1, 'prefix', '', '2026-11-24 08:48:40.31714+00', '2026-11-24 08:48:40.335541+00', '/srv/a/0.safetensors', 'abababababababababababababababababababababababababababababababab', 17);
INSERT INTO public.trials VALUES (2, 1, 1, 'COMPLETE', 'it said "no"', 'search', NULL, 'timm/resnet18', 'linear_probe', 4, 10, '{"C": 1.0}', 0.5, '{"accuracy": 0.5}', 2, 70, 280, 1000000000000, 1000, 11000000, 17, 1, 'prefix', '', '2026-11-24 08:48:40.317152+00', '2026-11-24 08:48:40.335551+00', NULL, NULL, NULL);
INSERT INTO public.trials VALUES (3, 1, 2, 'COMPLETE', 'all 4 epochs', 'confirm', 0, 'timm/resnet18', 'fine_tune', 4, 10, '{"learning_rate": 0.001, "freeze_depth": 0.5, "augment": true, "optimizer": "adamw"}', 0.7, '{"accuracy": 0.7}', 2, 70, 280, 1000000000000, 1000, 11000000, 18, 1, 'prefix', '', '2026-11-24 08:48:40.342756+00', '2026-11-24 08:48:40.393034+00', NULL, NULL, NULL);
INSERT INTO public.trials VALUES (4, 2, 0, 'RUNNING', '', 'search', NULL, 'torchvision/alexnet', 'fine_tune', NULL, NULL, '{"learning_rate": 0.001, "freeze_depth": 0.5, "augment": true, "optimizer": "adamw"}', NULL, '{}', 0, 0, 0, 0, 0, 0, 17, 1, '', '', '2026-11-24 08:48:40.507997+00', NULL, NULL, NULL, NULL);
SELECT pg_catalog.setval('public.datasets_id_seq', 2, true);
SELECT pg_catalog.setval('public.models_id_seq', 1, true);
SELECT pg_catalog.setval('public.studies_id_seq', 2, true);
SELECT pg_catalog.setval('public.trials_id_seq', 4, true);
ALTER TABLE ONLY public.datasets
    ADD CONSTRAINT pk_datasets PRIMARY KEY (id);
ALTER TABLE ONLY public.epochs
    ADD CONSTRAINT pk_epochs PRIMARY KEY (trial_id, attempt, epoch);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT pk_models PRIMARY KEY (id);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT pk_studies PRIMARY KEY (id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT pk_trials PRIMARY KEY (id);
ALTER TABLE ONLY public.tlsearch_alembic_version
    ADD CONSTRAINT tlsearch_alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.datasets
    ADD CONSTRAINT uq_datasets_fingerprint UNIQUE (fingerprint);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT uq_models_study_id UNIQUE (study_id);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT uq_studies_name UNIQUE (name);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT uq_trials_study_id_number UNIQUE (study_id, number);
CREATE INDEX ix_studies_dataset_id ON public.studies USING btree (dataset_id);
CREATE INDEX ix_trials_best ON public.trials USING btree (study_id, state, role, value);
ALTER TABLE ONLY public.epochs
    ADD CONSTRAINT fk_epochs_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.models
    ADD CONSTRAINT fk_models_study_id FOREIGN KEY (study_id) REFERENCES public.studies(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.models
    ADD CONSTRAINT fk_models_study_id_trial FOREIGN KEY (study_id, trial) REFERENCES public.trials(study_id, number) ON DELETE CASCADE;
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT fk_studies_dataset_id FOREIGN KEY (dataset_id) REFERENCES public.datasets(id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT fk_trials_study_id FOREIGN KEY (study_id) REFERENCES public.studies(id) ON DELETE CASCADE;
