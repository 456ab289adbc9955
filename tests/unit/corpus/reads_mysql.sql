SELECT 1
SELECT @@version, @@GLOBAL.gtid_executed, @@session.time_zone
SELECT @@last_gtid
SELECT @@gtid_slave_pos
SELECT MASTER_GTID_WAIT('0-1-8', 0.05)
SELECT WAIT_FOR_EXECUTED_GTID_SET('3E11FA47-71CA-11E1-9E33-C80AA9429562:23', 0.05)
SELECT GTID_SUBSET('3E11FA47-71CA-11E1-9E33-C80AA9429562:23', @@GLOBAL.gtid_executed)
SELECT utc_timestamp(6), database(), user(), connection_id()
SELECT point_book.user_id, point_book.points FROM point_book WHERE point_book.user_id = %s
SELECT points.id FROM points WHERE points.user_id IN (%s, %s, %s) ORDER BY points.id DESC LIMIT %s
SELECT points.id FROM points WHERE points.id = %(id_1)s
SELECT count(*) AS count_1 FROM (SELECT points.id AS id FROM points) AS anon_1
SELECT `order`.`id`, `order`.`update` FROM `order`
SELECT * FROM points WHERE note LIKE 'a%%' AND id %% 2 = 0
SELECT * FROM points WHERE note LIKE CONCAT('%%', %s, '%%')
SELECT * FROM points LIMIT 5, 10
SELECT * FROM points LIMIT 10 OFFSET 5
SELECT SQL_NO_CACHE id FROM points
SELECT /*!40001 SQL_NO_CACHE */ id FROM points
SELECT STRAIGHT_JOIN a.id FROM a JOIN b ON a.id = b.id
SELECT /*+ MAX_EXECUTION_TIME(1000) */ id FROM points
SELECT id FROM points USE INDEX (by_user) WHERE user_id = %s
SELECT id FROM points FORCE INDEX (PRIMARY)
SELECT id FROM points IGNORE INDEX (by_user)
SELECT a.id FROM a LEFT JOIN b USING (id) WHERE b.id IS NULL
SELECT a.id FROM a NATURAL JOIN b
SELECT a.id FROM a CROSS JOIN b
SELECT id <=> NULL, NOT id, id XOR 1, !id FROM points
SELECT id DIV 2, id MOD 2, id & 1, id | 2, id ^ 3 FROM points
SELECT IF(a > 1, 'x', 'y'), IFNULL(a, 0), NULLIF(a, b) FROM t
SELECT GROUP_CONCAT(DISTINCT name ORDER BY name SEPARATOR ', ') FROM t GROUP BY kind
SELECT kind, count(*) FROM t GROUP BY kind WITH ROLLUP
SELECT INSERT('Quadratic', 3, 4, 'What'), REPLACE('a', 'b', 'c')
SELECT DATE_ADD(now(), INTERVAL 1 DAY), now() - INTERVAL 5 MINUTE
SELECT STR_TO_DATE('2026-01-01', '%%Y-%%m-%%d'), DATE_FORMAT(now(), '%%H')
SELECT CAST(a AS UNSIGNED), CONVERT(b USING utf8mb4), BINARY c FROM t
SELECT a COLLATE utf8mb4_bin, _utf8mb4'text', N'text', x'4D', 0x4D, b'101' FROM t
SELECT data->'$.a', data->>'$.b', JSON_EXTRACT(data, '$.c') FROM t
SELECT JSON_UNQUOTE(JSON_EXTRACT(data, '$.insert')) FROM t
SELECT given.id FROM json_table('[{"id":1}]', '$[*]' COLUMNS (id INT PATH '$.id')) AS given
SELECT name REGEXP '^(insert|update)', name RLIKE 'x' FROM t
SELECT MATCH (title, body) AGAINST (%s IN NATURAL LANGUAGE MODE) FROM posts
SELECT MATCH (title) AGAINST ('+update -delete' IN BOOLEAN MODE) FROM posts
SELECT row_number() OVER (PARTITION BY kind ORDER BY id) FROM t
SELECT id, sum(v) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) FROM t
WITH RECURSIVE n AS (SELECT 1 AS v UNION ALL SELECT v + 1 FROM n WHERE v < 10) SELECT v FROM n
WITH recent AS (SELECT id FROM points LIMIT 5) SELECT * FROM recent
SELECT * FROM a UNION SELECT * FROM b ORDER BY 1 LIMIT 3
(SELECT 1) UNION ALL (SELECT 2)
SELECT * FROM (SELECT 1 AS a) AS d
SELECT EXISTS (SELECT 1 FROM points WHERE id = %s)
SELECT * FROM t WHERE (a, b) IN ((1, 2), (3, 4))
SELECT * FROM t WHERE a = ANY (SELECT b FROM u)
SELECT * FROM t PARTITION (p0)
SELECT 'DELETE FROM points', "INSERT INTO points", 'it\'s FOR UPDATE'
SELECT "LOCK IN SHARE MODE", 'GET_LOCK(''a'', 1)'
SELECT IS_FREE_LOCK('a'), IS_USED_LOCK('a')
SELECT LAST_INSERT_ID()
SELECT LASTVAL(s)
SELECT PREVIOUS VALUE FOR s
SELECT @a, @`b`
SELECT get_lock FROM settings
SELECT release_lock, setval FROM settings
SELECT SLEEP(0), UUID(), RAND()
SELECT FOUND_ROWS(), ROW_COUNT()
SELECT SUBSTRING('abc' FROM 2 FOR 1), TRIM(LEADING 'x' FROM 'xa'), EXTRACT(YEAR FROM now())
SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()
SELECT * FROM performance_schema.global_status
SELECT * FROM mysql.user
TABLE points
VALUES ROW(1, 2), ROW(3, 4)
SHOW TABLES
SHOW FULL TABLES FROM shop
SHOW CREATE TABLE points
SHOW GLOBAL STATUS LIKE 'Threads%%'
SHOW VARIABLES LIKE 'read_only'
SHOW SLAVE STATUS
SHOW MASTER STATUS
SHOW FULL PROCESSLIST
SHOW INDEX FROM points
DESCRIBE points
DESC points user_id
EXPLAIN SELECT * FROM points
EXPLAIN FORMAT=JSON SELECT * FROM points
EXPLAIN ANALYZE SELECT * FROM points
EXPLAIN points
EXPLAIN UPDATE points SET points = 1
ANALYZE FORMAT=JSON SELECT * FROM points
CHECKSUM TABLE points
HELP 'contents'
SET STATEMENT max_statement_time = 1 FOR SELECT * FROM points
# insert a comment
-- delete a comment
/* update */ SELECT 1 -- FOR UPDATE
SELECT 1; SELECT 2;
START TRANSACTION READ ONLY
