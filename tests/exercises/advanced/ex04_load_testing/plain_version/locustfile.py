"""As load tests are often begun: every URL is called, and whatever has a 200 is good."""

from locust import HttpUser, between, task

from exercises.advanced.ex04_load_testing.settings import read_settings

settings = read_settings()
QUESTION = {"query": "What is 1234 times 5678?"}


class AgentUser(HttpUser):
    wait_time = between(settings.think_min, settings.think_max)

    def on_start(self) -> None:
        form = {"username": settings.agent_username, "password": settings.agent_password}
        response = self.client.post("/api/v1/auth/login", data=form, name="login")
        self.headers = {"Authorization": f"Bearer {response.json()['access_token']}"}
        self.session_id = ""

    @task(3)
    def query(self) -> None:
        response = self.client.post(
            "/api/v1/query", json=QUESTION, headers=self.headers, name="query"
        )
        self.session_id = response.json()["session_id"]

    @task(2)
    def stream(self) -> None:
        with self.client.post(
            "/api/v1/query/stream",
            json=QUESTION,
            headers=self.headers,
            name="whole stream",
            stream=True,
            catch_response=True,
        ) as response:
            if response.status_code == 200:
                response.success()

    @task
    def session(self) -> None:
        if self.session_id:
            self.client.get(
                f"/api/v1/session/{self.session_id}", headers=self.headers, name="session"
            )
