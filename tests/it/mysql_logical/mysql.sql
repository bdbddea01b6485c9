-- What only MySQL has.
CREATE DATABASE my_only; USE my_only;
CREATE TABLE documents (id INT PRIMARY KEY, j JSON, n INT AS (j ->> '$.n') VIRTUAL, x VECTOR(3), hidden INT INVISIBLE DEFAULT 5, up VARCHAR(9) DEFAULT (UPPER('x')), KEY functional ((LOWER(up))));
INSERT INTO documents (id, j, x, hidden) VALUES (1, '{"n": 1.0, "s": "ä\\"\\n", "a": [1e100, -0.0, 18446744073709551615, null, true]}', STRING_TO_VECTOR('[1, -2.5, 3e10]'), 6), (2, 'null', NULL, NULL), (3, NULL, NULL, 1);
CREATE TABLE placed (id INT PRIMARY KEY, p POINT NOT NULL SRID 4326, SPATIAL KEY (p)); INSERT INTO placed VALUES (1, ST_GeomFromText('POINT(52.5 13.4)', 4326));
SET SESSION sql_generate_invisible_primary_key = ON;
CREATE TABLE made_key (v INT); INSERT INTO made_key VALUES (1), (2);
SET SESSION sql_generate_invisible_primary_key = OFF;
CREATE USER twice@'%' IDENTIFIED BY 'first-1' PASSWORD EXPIRE INTERVAL 90 DAY FAILED_LOGIN_ATTEMPTS 3 PASSWORD_LOCK_TIME 2;
ALTER USER twice@'%' IDENTIFIED BY 'second-2' RETAIN CURRENT PASSWORD;
GRANT BACKUP_ADMIN ON *.* TO twice@'%';
SET DEFAULT ROLE ALL TO 'o''reader'@'10.%';
