-- How long refreshes of a slice take.  psql -v n=100000 -f test/perf/refresh.sql
-- in a database that has the extension; drops what it makes.
set client_min_messages=warning;
create function jpeg(seed text, w int = 640, h int = 480) returns bytea language sql immutable as $$
	SELECT '\xffd8fffe'::bytea
		|| decode(lpad(to_hex(octet_length(seed) + 2), 4, '0'), 'hex')
		|| convert_to(seed, 'UTF8')
		|| '\xffc000110801e0028003012200021101031101ffda000c03010002110311003f0000ffd9'::bytea $$;
select avcurate.create_dataset('big');
\timing on
insert into big(image_id,split,image_bytes,weather,timeofday,ann_categories,ann_bboxes,ann_occluded,ann_truncated)
select 'f'||i,'train',jpeg('s'||i), case when i%3=0 then 'rainy' else 'clear' end,'night', array['car','person','car','car','traffic light'], array[[1,2,30,40],[5,5,50,60.5],[1,2,30,40],[5,5,50,60.5],[5,5,50,60.5]]::real[], array[true,null,true,true,false], array[false,false,false,false,false] from generate_series(1,:n) i;
vacuum analyze big;
\echo create_slice
select avcurate.create_slice('bigs','big','true');
\echo nothing changed: refresh_slice, plain REFRESH, CONCURRENTLY
select avcurate.refresh_slice('bigs');
refresh materialized view bigs;
refresh materialized view concurrently bigs;
\echo 1 percent changed
update big set weather='foggy' where frame_id % 100 = 1;
select avcurate.refresh_slice('bigs');
update big set weather='snowy' where frame_id % 100 = 1;
refresh materialized view bigs;
\echo 10 percent changed
update big set weather='x' where frame_id % 10 = 1;
select avcurate.refresh_slice('bigs');
\echo half changed
update big set weather='y' where frame_id % 2 = 1;
select avcurate.refresh_slice('bigs');
update big set weather='z' where frame_id % 2 = 1;
refresh materialized view bigs;
\echo slice_at, diff, verify
select count(*) from avcurate.slice_at(null::bigs,1);
select count(*) from avcurate.slice_diff(null::bigs,1,3);
select rows, verified from avcurate.verify_slice('bigs',1);
\echo untracked: plain, concurrently with 1 percent
select avcurate.untrack_slice('bigs');
refresh materialized view bigs;
refresh materialized view concurrently bigs;
update big set weather='snowy' where frame_id % 100 = 1;
refresh materialized view bigs;
update big set weather='snowyy' where frame_id % 100 = 1;
refresh materialized view concurrently bigs;
\timing off
drop table big cascade;
drop function jpeg(text, int, int);
