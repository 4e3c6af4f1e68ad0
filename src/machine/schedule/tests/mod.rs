//! Schedules against tables, and against naive models of what they are meant to be.

mod decisions;
mod moments;
