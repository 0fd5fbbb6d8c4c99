//! What `examples/bench` reads: a strategy on its command line, and what Linux says
//! of the processor's time.

#[allow(dead_code, reason = "the example uses all of it")]
#[path = "../../../examples/bench/load.rs"]
mod load;
#[allow(dead_code, reason = "the example uses all of it")]
#[path = "../../../examples/bench/process.rs"]
mod process;

use load::Dispatching;

pub fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<Dispatching>() {
        Ok(strategy) => {
            let written = strategy.to_string();
            assert_eq!(written.parse(), Ok(strategy), "{written}");
        }
        Err(usage) => assert!(usage.contains("batched:SIZE:MICROS")),
    }
    let _ = (process::own_time(&text), process::time_of_all(&text));
}
