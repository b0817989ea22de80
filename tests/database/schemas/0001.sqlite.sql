BEGIN TRANSACTION;
CREATE TABLE datasets (
	id INTEGER NOT NULL, 
	fingerprint TEXT NOT NULL, 
	source TEXT NOT NULL, 
	classes JSON NOT NULL, 
	counts JSON NOT NULL, 
	broken JSON NOT NULL, 
	CONSTRAINT pk_datasets PRIMARY KEY (id), 
	CONSTRAINT uq_datasets_fingerprint UNIQUE (fingerprint)
);
INSERT INTO "datasets" VALUES(1,'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','folder data/flowers','["daisy", "tulip"]','{"train": 70, "val": 15, "test": 15}','["tulip/7.jpg: truncated"]');
CREATE TABLE epochs (
	trial_id INTEGER NOT NULL, 
	attempt BIGINT NOT NULL, 
	epoch BIGINT NOT NULL, 
	value DOUBLE, 
	metrics JSON NOT NULL, 
	seconds DOUBLE NOT NULL, 
	CONSTRAINT pk_epochs PRIMARY KEY (trial_id, attempt, epoch), 
	CONSTRAINT fk_epochs_trial_id FOREIGN KEY(trial_id) REFERENCES trials (id) ON DELETE CASCADE
);
INSERT INTO "epochs" VALUES(1,1,1,0.5,'{"train_loss": 0.25}',0.5);
INSERT INTO "epochs" VALUES(1,1,2,0.75,'{"train_loss": 0.25}',0.5);
INSERT INTO "epochs" VALUES(2,1,1,0.5,'{"train_loss": 0.25}',0.5);
INSERT INTO "epochs" VALUES(3,1,1,0.5,'{"train_loss": 0.25}',0.5);
INSERT INTO "epochs" VALUES(4,1,1,1.25,'{"train_loss": 0.25}',0.5);
CREATE TABLE models (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	trial BIGINT NOT NULL, 
	uri TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	bytes BIGINT NOT NULL, 
	verified BOOLEAN NOT NULL, 
	metrics JSON NOT NULL, 
	created DATETIME NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (id), 
	CONSTRAINT uq_models_study_id UNIQUE (study_id), 
	CONSTRAINT fk_models_study_id FOREIGN KEY(study_id) REFERENCES studies (id) ON DELETE CASCADE, 
	CONSTRAINT fk_models_study_id_trial FOREIGN KEY(study_id, trial) REFERENCES trials (study_id, number) ON DELETE CASCADE
);
INSERT INTO "models" VALUES(1,1,0,'/srv/a/model','cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',99,1,'{"val": {"accuracy": 0.75}, "test": {"accuracy": 0.7}}','2026-01-02 03:04:05.000000');
CREATE TABLE studies (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	dataset_id INTEGER NOT NULL, 
	spec JSON NOT NULL, 
	metric TEXT NOT NULL, 
	direction TEXT NOT NULL, 
	state TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	plugins JSON NOT NULL, 
	versions JSON NOT NULL, 
	seconds DOUBLE NOT NULL, 
	lease_owner TEXT, 
	lease_token BIGINT NOT NULL, 
	lease_since DOUBLE, 
	lease_until DOUBLE, 
	last_write TEXT NOT NULL, 
	created DATETIME NOT NULL, 
	updated DATETIME NOT NULL, 
	CONSTRAINT pk_studies PRIMARY KEY (id), 
	CONSTRAINT uq_studies_name UNIQUE (name), 
	CONSTRAINT fk_studies_dataset_id FOREIGN KEY(dataset_id) REFERENCES datasets (id), 
	CONSTRAINT ck_studies_state CHECK (state IN ('RUNNING', 'INTERRUPTED', 'COMPLETE', 'FAILED')), 
	CONSTRAINT ck_studies_direction CHECK (direction IN ('maximize', 'minimize'))
);
INSERT INTO "studies" VALUES(1,'flowers',1,'{"study": "flowers", "budget": {"trials": 60}}','accuracy','maximize','COMPLETE','','[{"group": "tlsearch.strategies", "name": "fine_tune", "distribution": "tlsearch", "version": "0.1.0"}]','{"torch": "2.14"}',12.5,NULL,1,NULL,NULL,'4d76762af17a445098216ca0d2acee37','2026-11-24 08:48:31.442555','2026-11-24 08:48:31.758859');
INSERT INTO "studies" VALUES(2,'birds',1,'{"study": "birds", "budget": {"trials": 60}}','log_loss','minimize','RUNNING','','[{"group": "tlsearch.strategies", "name": "fine_tune", "distribution": "tlsearch", "version": "0.1.0"}]','{"torch": "2.14"}',0.0,'bob@node7:7:2.00',1,1.79551011181198072429e+09,1.79551011191198062891e+09,'08e8d179db054f93ad9c9c9dac33fabe','2026-11-24 08:48:31.471874','2026-11-24 08:48:31.856168');
CREATE TABLE tlsearch_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT tlsearch_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "tlsearch_alembic_version" VALUES('0001');
CREATE TABLE trials (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	number BIGINT NOT NULL, 
	state TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	role TEXT NOT NULL, 
	confirms BIGINT, 
	backbone TEXT NOT NULL, 
	strategy TEXT NOT NULL, 
	freeze_depth BIGINT, 
	groups BIGINT, 
	params JSON NOT NULL, 
	value DOUBLE, 
	metrics JSON NOT NULL, 
	seconds DOUBLE NOT NULL, 
	prefix_images BIGINT NOT NULL, 
	suffix_images BIGINT NOT NULL, 
	flops DOUBLE NOT NULL, 
	trainable_parameters BIGINT NOT NULL, 
	total_parameters BIGINT NOT NULL, 
	seed BIGINT NOT NULL, 
	attempt BIGINT NOT NULL, 
	cache TEXT NOT NULL, 
	node TEXT NOT NULL, 
	started DATETIME NOT NULL, 
	finished DATETIME, 
	artifact_uri TEXT, 
	artifact_sha256 TEXT, 
	artifact_bytes BIGINT, 
	CONSTRAINT pk_trials PRIMARY KEY (id), 
	CONSTRAINT uq_trials_study_id_number UNIQUE (study_id, number), 
	CONSTRAINT fk_trials_study_id FOREIGN KEY(study_id) REFERENCES studies (id) ON DELETE CASCADE, 
	CONSTRAINT ck_trials_state CHECK (state IN ('RUNNING', 'COMPLETE', 'PRUNED', 'FAILED', 'CANCELLED')), 
	CONSTRAINT ck_trials_role CHECK (role IN ('search', 'confirm')), 
	CONSTRAINT ck_trials_number CHECK (number >= 0), 
	CONSTRAINT ck_trials_attempt CHECK (attempt >= 1)
);
INSERT INTO "trials" VALUES(1,1,0,'COMPLETE','all 4 epochs','search',NULL,'timm/resnet18','fine_tune',4,10,'{"learning_rate": 0.001, "freeze_depth": 0.5, "augment": true, "optimizer": "adamw"}',0.75,'{"accuracy": 0.75}',2.0,70,280,1000000000000.0,1000,11000000,17,1,'prefix','','2026-11-24 08:48:31.514425','2026-11-24 08:48:31.536429','/srv/a/0.safetensors','abababababababababababababababababababababababababababababababab',17);
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','it said "no"','search',NULL,'timm/resnet18','linear_probe',4,10,'{"C": 1.0}',0.5,'{"accuracy": 0.5}',2.0,70,280,1000000000000.0,1000,11000000,17,1,'prefix','','2026-11-24 08:48:31.514439','2026-11-24 08:48:31.536440',NULL,NULL,NULL);
INSERT INTO "trials" VALUES(3,1,2,'COMPLETE','all 4 epochs','confirm',0,'timm/resnet18','fine_tune',4,10,'{"learning_rate": 0.001, "freeze_depth": 0.5, "augment": true, "optimizer": "adamw"}',0.7,'{"accuracy": 0.7}',2.0,70,280,1000000000000.0,1000,11000000,18,1,'prefix','','2026-11-24 08:48:31.567943','2026-11-24 08:48:31.608980',NULL,NULL,NULL);
INSERT INTO "trials" VALUES(4,2,0,'RUNNING','','search',NULL,'torchvision/alexnet','fine_tune',NULL,NULL,'{"learning_rate": 0.001, "freeze_depth": 0.5, "augment": true, "optimizer": "adamw"}',NULL,'{}',0.0,0,0,0.0,0,0,17,1,'','','2026-11-24 08:48:31.852409',NULL,NULL,NULL,NULL);
CREATE INDEX ix_studies_dataset_id ON studies (dataset_id);
CREATE INDEX ix_trials_best ON trials (study_id, state, role, value);
COMMIT;
