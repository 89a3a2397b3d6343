use std::{
    net::{Ipv4Addr, TcpListener},
    process::{Child, ChildStdout, Command, Stdio},
};

/// A process that ends with its owner.
pub(crate) struct Process(Child);

impl Process {
    /// Starts it with a pipe at its standard input, which closes when this is dropped.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).spawn().expect("the program was found before"))
    }

    /// Its standard output, when that is a pipe, and once.
    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago: whoever needs it tries another one when somebody was faster.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}
