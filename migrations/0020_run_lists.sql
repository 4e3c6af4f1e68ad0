-- Ended runs by how they ended, and of which function: what is rare is found without reading all of them.

-- Three values that repeat: a few bytes a run. Built at once: seconds for a million runs.
create index run_done_status on run_done (ns, status, fn);
