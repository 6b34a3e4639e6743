"""A pool of processes that is one job: one page, one report, and one budget that stops all of them."""

from concurrent.futures import ProcessPoolExecutor

from genmeter import BudgetExceededError, GenerationMonitor, job_token_usage

monitor = GenerationMonitor()
budget = monitor.budget(tokens=20_000, scope="job")


def work(number: int) -> bool:
    """Ask the model once, unless the job has used up its budget."""
    try:
        # The reservation is as much as a call may use.
        with budget.reserve(tokens=300), monitor.generation(model="atlas-large") as call:
            # Stands for a call of a model.
            call.usage(prompt_token_count=200, completion_token_count=number % 100)
    except BudgetExceededError:
        return False
    return True


if __name__ == "__main__":
    with ProcessPoolExecutor(4) as pool:
        done = list(pool.map(work, range(200)))
    print(f"{sum(done)} of {len(done)} done")
    print(job_token_usage())
