//! The user's own handler, run as a child of `stepwell dev -- CMD…`.

use std::io::IsTerminal;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::error::Error;

/// How long a handler may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take where Ctrl-C has reached it already, before it is asked once more.
const AFTER_CTRL_C: Duration = Duration::from_secs(2);

/// A running handler. Its input and output are ours.
#[derive(Debug)]
pub struct Handler {
    child: Child,
    command: String,
    /// Whether it and what it starts are a process group of their own.
    own_group: bool,
}

impl Handler {
    /// Runs `command`, a program and its arguments, with `STEPWELL_URL` and
    /// `STEPWELL_SIGNING_SECRET` in its environment.
    ///
    /// In a terminal it stays in our process group, so that it can read from the terminal and
    /// Ctrl-C reaches both; else it gets a group of its own, so that all of it can be ended.
    pub fn spawn(command: &[String], url: &str, signing_secret: &str) -> Result<Self, Error> {
        let own_group = !std::io::stdin().is_terminal();
        let line = command.join(" ");
        let program = command.first().map_or("", String::as_str);
        let mut child = Command::new(program);
        child.args(command.iter().skip(1));
        child.env("STEPWELL_URL", url).env("STEPWELL_SIGNING_SECRET", signing_secret);
        // For our sudden end by a panic; a SIGKILL of ours it survives.
        child.kill_on_drop(true);
        if own_group {
            child.process_group(0);
        }
        match child.spawn() {
            Ok(child) => Ok(Self { child, command: line, own_group }),
            Err(source) => Err(Error::Handler { command: line, source }),
        }
    }

    /// The command as it was given.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Resolves when it has ended by itself; the gateway goes on without it. May be dropped and
    /// called again.
    pub async fn exited(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end, waits for that a while, then kills it. Nothing happens if it has ended.
    pub async fn stop(mut self) -> std::io::Result<ExitStatus> {
        if !self.own_group
            && let Ok(ended) = timeout(AFTER_CTRL_C, self.child.wait()).await
        {
            return ended;
        }
        self.signal(Signal::TERM);
        if let Ok(ended) = timeout(PATIENCE, self.child.wait()).await {
            return ended;
        }
        self.signal(Signal::KILL);
        self.child.wait().await
    }

    fn signal(&self, signal: Signal) {
        // None once it has ended, so that no signal goes to a stranger of the same number.
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(pid) = pid else { return };
        let sent = if self.own_group {
            kill_process_group(pid, signal)
        } else {
            kill_process(pid, signal)
        };
        if let Err(error) = sent {
            tracing::debug!("signal to the handler: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn shell(script: &str) -> Handler {
        let command = ["sh", "-c", script].map(str::to_owned);
        Handler::spawn(&command, "http://127.0.0.1:8484", "whsec_c2VjcmV0").unwrap()
    }

    async fn appears(path: &Path) -> String {
        loop {
            if let Ok(text) = std::fs::read_to_string(path)
                && text.ends_with('\n')
            {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn it_gets_the_two_variables_and_its_end_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("said");
        let script = "echo $STEPWELL_URL $STEPWELL_SIGNING_SECRET > \"$0\"; exit 7";
        let mut command = ["sh", "-c", script].map(str::to_owned).to_vec();
        command.push(file.display().to_string());
        let mut handler = Handler::spawn(&command, "http://h:1", "whsec_x").unwrap();
        assert_eq!(handler.exited().await.unwrap().code(), Some(7));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "http://h:1 whsec_x\n");
        assert_eq!(handler.stop().await.unwrap().code(), Some(7));
    }

    #[tokio::test]
    async fn what_it_started_ends_with_it() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("pid");
        let handler = shell(&format!("sleep 600 & echo $! > {}; wait", file.display()));
        if !handler.own_group {
            return; // in a terminal Ctrl-C does this
        }
        let pid: i32 = appears(&file).await.trim().parse().unwrap();
        handler.stop().await.unwrap();
        // Dead, though perhaps not yet reaped by whoever inherited it.
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let until = tokio::time::Instant::now() + Duration::from_secs(5);
        while !state().is_empty() && !state().contains(") Z ") {
            assert!(tokio::time::Instant::now() < until, "process {pid} lives: {}", state());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_named() {
        let command = ["no-such-program".to_owned(), "x".to_owned()];
        let error = Handler::spawn(&command, "", "").unwrap_err().to_string();
        assert!(error.contains("`no-such-program x`"), "{error}");
    }
}
